"""The gated delta rule chunk by chunk against token by token in float64, and its filters over packed sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlscale.platform.gated_delta_rule import CHUNK, causal_convolution, gated_delta_rule

SEQUENCES, HEADS, KEY, VALUE = 2, 3, 8, 4


def inputs(tokens: int) -> list[Tensor]:
    """Query, key, value, logarithm of the decay, share."""
    generator = torch.Generator().manual_seed(tokens)
    shape = SEQUENCES, HEADS, tokens
    query, key = (torch.randn(*shape, KEY, generator=generator) for _ in range(2))
    value = torch.randn(*shape, VALUE, generator=generator)
    decay, share = torch.randn(2, *shape, generator=generator)
    return [query, key / key.norm(dim=-1, keepdim=True), value, -decay.exp(), share.sigmoid()]


def token_by_token(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, share: Tensor) -> Tensor:
    """The definition, in the type of its inputs."""
    state, outputs = query.new_zeros(SEQUENCES, HEADS, KEY, VALUE), []
    for token in range(query.shape[2]):
        q, k, v = (x[:, :, token] for x in (query, key, value))
        state = state * log_decay[:, :, token, None, None].exp()
        missing = v - torch.einsum("shkv,shk->shv", state, k)
        state = state + torch.einsum("sh,shk,shv->shkv", share[:, :, token], k, missing)
        outputs.append(torch.einsum("shkv,shk->shv", state, q) / KEY**0.5)
    return torch.stack(outputs, dim=2)


@pytest.mark.parametrize("tokens", [1, 7, CHUNK, 2 * CHUNK + 5])
def test_chunks_give_what_tokens_one_by_one_give_and_the_same_gradients(tokens: int) -> None:
    given = [x.requires_grad_() for x in inputs(tokens)]
    expected = token_by_token(*(x.double() for x in given))
    read, _ = gated_delta_rule(*given)
    torch.testing.assert_close(read, expected.float(), rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((read * weights).sum(), given)
    for got, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), given), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_value_is_overwritten_by_the_next_one_of_its_key_and_fades() -> None:
    key = torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2)
    value = torch.tensor([[8.0], [6.0], [0.0]]).view(1, 1, 3, 1)
    log_decay = torch.tensor([1.0, 1.0, 0.5]).log().view(1, 1, 3)
    share = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3)
    # 8; half of the way from 8 to 6; half of that.
    read, _ = gated_delta_rule(key * 2**0.5, key, value, log_decay, share)
    torch.testing.assert_close(read.flatten(), torch.tensor([8.0, 7.0, 3.5]))


def test_a_sequence_goes_on_from_the_matrices_that_its_beginning_left() -> None:
    given = inputs(CHUNK + 9)
    whole, last = gated_delta_rule(*given)
    first, state = gated_delta_rule(*(x[:, :, :20] for x in given))
    second, after = gated_delta_rule(*(x[:, :, 20:] for x in given), state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after, last, rtol=1e-5, atol=1e-5)


def test_filters_end_at_their_token_and_start_anew_with_each_sequence() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0], [20.0]])
    filters = torch.tensor([[[100.0, 10.0, 1.0]]])
    positions = torch.tensor([0, 1, 2, 0, 1])
    assert causal_convolution(x, filters, positions).flatten().tolist() == [1.0, 12.0, 123.0, 10.0, 120.0]
