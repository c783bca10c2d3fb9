"""Quantised activations are worth what an independent reference in NumPy says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rlscale.platform import fp8_activations as ours
from tests.unit.platform.numpy_activations import Roundings
from tests.unit.weights.encode.numpy_encodings import Floats

KINDS: dict[str, tuple[ours.Rounding, Callable[[Floats], Floats]]] = {
    "token and 128": (lambda x: ours.by_group(x, 128), lambda x: Roundings().by_group(x, 128)),
    "token": (ours.by_token, lambda x: Roundings().by_token(x)),
    "batch": (ours.by_batch, lambda x: Roundings().by_batch(x)),
    "token and 32, a power of two": (
        lambda x: ours.by_power_of_two(x, 32),
        lambda x: Roundings().by_power_of_two(x, 32),
    ),
}
EACH = pytest.mark.parametrize(("own", "reference"), KINDS.values(), ids=list(KINDS))


def activations(dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens of very different size: zeros, one below the floor, powers of two, and an outlier."""
    made = torch.randn(9, 256, generator=torch.Generator().manual_seed(0))
    made *= 2.0 ** torch.arange(9).sub(4)[:, None]
    made[0], made[3, 5] = 0, 1e4
    made[1] *= 1e-12
    made[2] = 2.0 ** torch.arange(256).remainder(9).sub(4)
    return made.to(dtype)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_worth_what_numpy_says(
    own: ours.Rounding, reference: Callable[[Floats], Floats], dtype: torch.dtype
) -> None:
    x = activations(dtype)
    got = own(x)
    assert got.dtype is torch.float32
    np.testing.assert_allclose(got.numpy(), reference(x.float().numpy()), rtol=3e-7, atol=0)
    assert (got - x.float()).abs().max() > 0.01


@EACH
def test_zeros_and_no_tokens_stay_what_they_are(own: ours.Rounding, reference: Callable[[Floats], Floats]) -> None:
    assert torch.equal(own(torch.zeros(3, 128)), torch.zeros(3, 128))
    assert own(torch.zeros(0, 128)).shape == (0, 128)


def test_one_token_decides_about_the_others_only_where_a_batch_shares_a_scale() -> None:
    x = activations()[4:]
    loud = torch.cat([x, 1e3 * x[-1:]])
    for alone in (ours.by_token, lambda x: ours.by_group(x, 128), lambda x: ours.by_power_of_two(x, 32)):
        assert torch.equal(alone(loud)[:-1], alone(x))
    assert not torch.equal(ours.by_batch(loud)[:-1], ours.by_batch(x))


def test_experts_multiply_rounded_numbers_and_weigh_what_comes_out() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 128, generator=generator)
    first = torch.randn(4, 256, 128, generator=generator)
    second = torch.randn(4, 128, 128, generator=generator)
    chosen = torch.tensor([[0, 2], [2, 0], [2, 3], [0, 3], [3, 2]])  # nobody asks for 1
    shares = torch.rand(5, 2, generator=generator)
    got = ours.expert_products(x, chosen, shares, first.__getitem__, second.__getitem__, ours.by_token)
    expected = torch.zeros_like(x, dtype=torch.float64)
    for token in range(5):
        for place in range(2):
            expert = int(chosen[token, place])
            rounded = torch.from_numpy(Roundings().by_token(x[token : token + 1].numpy())).double()
            gate, up = (rounded @ first[expert].double().T).chunk(2, dim=-1)
            activated = (torch.nn.functional.silu(gate) * up).float()
            inner = torch.from_numpy(Roundings().by_token(activated.numpy())).double()
            expected[token] += (shares[token, place] * (inner @ second[expert].double().T))[0]
    # Sums in float32 err in proportion to what is summed, whichever order a library takes.
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
