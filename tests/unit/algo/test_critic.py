from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlscale.algo.advantages import gae, reward_tokens
from rlscale.algo.critic import explained_variance, value_loss
from rlscale.algo.trajectories import Trajectories
from tests.unit.algo.ragged import ragged


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_value_loss_by_hand_takes_the_larger_of_the_free_and_the_bounded_error() -> None:
    # All from 1 with bound 0.5: to 2 towards 3 (bounded 1.5); to 2 away from 0; a small move; to -1 towards -4; back.
    values = tensor([2.0, 2.0, 1.25, -1.0, 0.0]).requires_grad_()
    result = value_loss(values, torch.ones(5), tensor([3.0, 0.0, 3.0, -4.0, 3.0]), clip=0.5)
    np.testing.assert_allclose(result.loss.detach(), [1.125, 2.0, 1.53125, 10.125, 4.5], rtol=1e-15)
    assert result.clipped.tolist() == [True, False, False, True, False]
    result.loss.sum().backward()
    assert values.grad is not None
    np.testing.assert_allclose(values.grad, [0.0, 2.0, -1.75, 0.0, -3.0], rtol=1e-15)


def test_without_clip_the_loss_is_half_the_squared_error() -> None:
    values = tensor([2.0, -1.0]).requires_grad_()
    result = value_loss(values, tensor([50.0, -50.0]), tensor([3.0, 1.0]), clip=None)
    result.loss.sum().backward()
    assert result.loss.tolist() == [0.5, 2.0]
    assert values.grad is not None
    assert values.grad.tolist() == [-1.0, -2.0]
    assert not result.clipped.any()


def test_before_the_first_step_the_clip_changes_neither_loss_nor_gradient() -> None:
    data = ragged(0)
    values, targets = torch.from_numpy(data.old).requires_grad_(), torch.from_numpy(data.ref)
    result = value_loss(values, values.detach(), targets, clip=0.2)
    (gradient,) = torch.autograd.grad(result.loss.sum(), values)
    np.testing.assert_array_equal(gradient, (values - targets).detach())
    assert not result.clipped.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bound", [None, 0.2])
def test_value_loss_agrees_with_a_loop_on_ragged_input(seed: int, bound: float | None) -> None:
    data = ragged(seed, noise=0.6)
    expected = []
    for v, old, target in zip(data.logprobs.tolist(), data.old.tolist(), data.ref.tolist(), strict=True):
        near = v if bound is None else min(max(v, old - bound), old + bound)
        expected.append(max((v - target) ** 2, (near - target) ** 2) / 2)
    result = value_loss(*map(torch.from_numpy, (data.logprobs, data.old, data.ref)), clip=bound)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-12)
    assert bool(result.clipped.any()) == (bound is not None)


@pytest.mark.parametrize("bound", [None, 0.2])
def test_gradients_agree_with_finite_differences(bound: float | None) -> None:
    data = ragged(2, groups=3, noise=0.6)
    values, old, targets = map(torch.from_numpy, (data.logprobs, data.old, data.ref))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, targets, clip=bound).loss, values)
    gradient = torch.autograd.grad(value_loss(values, old, targets, clip=bound).loss.sum(), values)[0]
    clipped = value_loss(values, old, targets, clip=bound).clipped
    assert ((gradient == 0.0) == clipped).all(), "exactly the clipped tokens have lost their gradient"


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_differences_of_a_hundred_and_no_token_stay_finite(difference: float) -> None:
    for values in (torch.full((1,), difference, requires_grad=True), torch.zeros(0, requires_grad=True)):
        result = value_loss(values, torch.zeros_like(values), torch.zeros_like(values), clip=0.2)
        (gradient,) = torch.autograd.grad(result.loss.sum(), values)
        assert torch.isfinite(result.loss).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 2.0], 1.0), ([5.0, 7.0], 1.0), ([1.0, 1.0], 0.0), ([2.0, 0.0], -3.0)]
)
def test_explained_variance_by_hand(values: list[float], expected: float) -> None:
    mask = np.array([True, False, True])
    returns = np.array([0.0, 99.0, 2.0])
    assert explained_variance(np.array([values[0], -99.0, values[1]]), returns, mask) == pytest.approx(expected)


def test_explained_variance_agrees_with_exact_statistics_on_ragged_input() -> None:
    data = ragged(1)
    target = [float(x) for x in data.old[data.mask]]
    error = [float(x) - float(y) for x, y in zip(data.old[data.mask], data.logprobs[data.mask], strict=True)]
    expected = 1 - statistics.pvariance(error) / statistics.pvariance(target)
    assert explained_variance(data.logprobs, data.old, data.mask) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_returns_without_variance_have_none_explained(tokens: int) -> None:
    # In floating point the variance of seven times 0.1 is not 0.
    mask = np.arange(12) < tokens
    returns = np.where(mask, 0.1, math.nan)
    assert explained_variance(np.linspace(0, 1, 12), returns, mask) == 0.0


STATES, GAMMA = 5, 0.9
"""A walk on 0..4 that steps left or right with equal chance; it ends outside, with reward 1 beyond 4 and 0 beyond 0."""


def known_values() -> NDArray[np.float64]:
    """[states] The solution of V(s) = gamma (V(s - 1) + V(s + 1)) / 2 inside and the reward of the last step."""
    step = np.zeros((STATES, STATES))
    reward = np.zeros(STATES)
    for s in range(STATES):
        for after in (s - 1, s + 1):
            if 0 <= after < STATES:
                step[s, after] = 0.5
        reward[s] = 0.5 if s == STATES - 1 else 0.0
    return np.linalg.solve(np.eye(STATES) - GAMMA * step, reward)


def walks(draw: np.random.Generator, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64], Trajectories]:
    """State of each token, score of each walk and trajectories; an observation token stands after every action."""
    states: list[int] = []
    lengths, scores = [], []
    for _ in range(number):
        state, start = int(draw.integers(STATES)), len(states)
        while 0 <= state < STATES:
            states += [state, 0]
            state += 2 * int(draw.integers(2)) - 1
        lengths.append(len(states) - start)
        scores.append(1.0 if state == STATES else 0.0)
    mask = np.arange(len(states)) % 2 == 0
    return np.array(states), np.array(scores), Trajectories.of(np.arange(number), np.array(lengths), mask)


@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_a_linear_critic_learns_the_known_values_of_a_random_walk(lam: float) -> None:
    draw = np.random.default_rng(0)
    weights = torch.full((STATES,), -1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=1.0)
    truth = known_values()
    errors, explained = [], []
    for iteration in range(100):
        optimizer.param_groups[0]["lr"] = 1.0 / (1.0 + iteration / 10.0)
        states, scores, trajectories = walks(draw, 100)
        mask = trajectories.unpack(np.ones(len(trajectories.tokens))) > 0
        features = torch.nn.functional.one_hot(torch.from_numpy(states), STATES).double()
        old = (features @ weights).detach()
        rho = reward_tokens(scores, None, 0.0, trajectories)
        _, targets = gae(rho, old.numpy(), trajectories, gamma=GAMMA, lam=lam)
        errors.append(float(np.abs(weights.detach().numpy() - truth).max()))
        explained.append(explained_variance(old.numpy(), targets, mask))
        for _ in range(2):
            loss = value_loss(features @ weights, old, torch.from_numpy(targets), clip=0.2).loss
            optimizer.zero_grad()
            loss[torch.from_numpy(mask)].mean().backward()
            optimizer.step()
    assert errors[0] > 1.0
    assert max(errors[-10:]) < 0.02
    assert explained[0] < 0.05
    assert np.mean(explained[-10:]) > 0.2
