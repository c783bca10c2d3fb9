"""Weights become the very bytes that the forms' rules give, and are worth what engines compute with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.families.served_form import Int4Grid, ServedForm, WeightForm
from rlscale.weights.encode import encoding_of
from tests.unit.weights.encode import numpy_encodings as reference

FORMS: dict[str, tuple[ServedForm, Callable[[NDArray[np.float32]], reference.Parts]]] = {
    "fp8_block": (ServedForm(WeightForm.fp8_block), reference.fp8_block),
    "fp8_tensor": (ServedForm(WeightForm.fp8_tensor), reference.fp8_tensor),
    "int4, -7 to 7": (ServedForm(WeightForm.int4), lambda weight: reference.int4(weight, 32, 7.0, -7)),
    "int4, -8 to 7": (
        ServedForm(WeightForm.int4, group=64, grid=Int4Grid.full),
        lambda weight: reference.int4(weight, 64, 7.5, -8),
    ),
    "mxfp8": (ServedForm(WeightForm.mxfp8), reference.mxfp8),
}
EACH = pytest.mark.parametrize("form", [form for form, _ in FORMS.values()], ids=list(FORMS))


def weight(rows: int = 136, columns: int = 192, seed: int = 0) -> Tensor:
    """Numbers of very different size: a row of zeros, one below every floor, powers of two and one outlier."""
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    made *= 2.0 ** torch.arange(rows).remainder(13).sub(9)[:, None]
    made[0] = 0
    made[1] *= 1e-14
    made[2] = 2.0 ** torch.arange(columns).remainder(9).sub(4)
    made[3, 5] = 1e4
    return made


def as_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", FORMS)
def test_codes_and_scales_are_those_of_a_reference_byte_by_byte(name: str) -> None:
    form, by_hand = FORMS[name]
    expected = by_hand(weight().numpy())
    encoded = encoding_of(form).encode(weight())
    assert {end: tuple(tensor.shape) for end, tensor in encoded.items()} == {e: x.shape for e, x in expected.items()}
    for ending, tensor in encoded.items():
        assert as_bytes(tensor) == expected[ending].tobytes(), ending


@EACH
def test_a_weight_is_off_by_half_a_step_at_the_most(form: ServedForm) -> None:
    encoding, original = encoding_of(form), weight()
    error = (encoding.rounded(original) - original).abs()
    assert form.quantisation is not None
    largest = encoding.largest(original)
    step = {WeightForm.int4: 1 / 14, WeightForm.mxfp8: 2 / 28}.get(form.kind, 1 / 28)  # of 448 the next one is 416
    if form.grid is Int4Grid.full:
        step = 1 / 15
    height, width = original.shape
    sizes = (form.quantisation.rows or height, form.quantisation.columns or width)
    bound = largest.repeat_interleave(sizes[0], 0)[:height].repeat_interleave(sizes[1], 1)[:, :width]
    assert bool((error <= bound * step * (1 + 1e-5)).all())


@pytest.mark.parametrize("name", [name for name in FORMS if FORMS[name][0].grid is Int4Grid.symmetric])
def test_what_is_rounded_already_stays_bit_for_bit(name: str) -> None:
    """Not on the full grid, where the largest of a group may be -8, which is taken for 7.5 the next time."""
    encoding = encoding_of(FORMS[name][0])
    once = encoding.rounded(weight())
    assert torch.equal(encoding.rounded(once), once)


def test_int4_codes_stay_where_the_weight_is_rounded_to_bfloat16() -> None:
    """The scale may then move by its last bit, as seven times it was rounded, too."""
    encoding, original = encoding_of(ServedForm(WeightForm.int4)), weight().bfloat16()
    codes = [encoding.encode(each)["weight_packed"] for each in (original, encoding.rounded(original))]
    assert torch.equal(*codes)


@EACH
def test_encoding_does_not_depend_on_how_the_weight_lies_in_memory(form: ServedForm) -> None:
    straight, turned = encoding_of(form).encode(weight()), encoding_of(form).encode(weight().t().contiguous().t())
    assert all(as_bytes(straight[ending]) == as_bytes(turned[ending]) for ending in straight)


@EACH
def test_zeros_stay_zeros_and_nothing_becomes_infinite(form: ServedForm) -> None:
    rounded = encoding_of(form).rounded(weight())
    assert not rounded[0].any()
    assert bool(rounded.isfinite().all())
    assert not encoding_of(form).rounded(torch.zeros(128, 128)).any()


def test_the_largest_of_every_int4_group_is_seven() -> None:
    """A floor under the scale would make it less in groups of very small numbers."""
    parts = encoding_of(ServedForm(WeightForm.int4)).encode(weight()[1:])
    nibbles = (parts["weight_packed"].unsqueeze(-1) >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15
    whole = nibbles.flatten(1).unflatten(1, (-1, 32)) - 8
    assert whole.abs().amax(-1).unique().tolist() == [7]
    assert int(whole.min()) == -7


def test_the_full_grid_uses_minus_eight() -> None:
    encoding = encoding_of(ServedForm(WeightForm.int4, grid=Int4Grid.full))
    row = torch.zeros(1, 32)
    row[0, :3] = torch.tensor([-7.5, 7.5, 1.0])
    assert encoding.rounded(row)[0, :3].tolist() == [-8.0, 7.0, 1.0]


def test_an_int4_scale_has_the_type_of_the_weight_and_is_rounded_once() -> None:
    original = weight().bfloat16()
    parts = encoding_of(ServedForm(WeightForm.int4)).encode(original)
    largest = original.double().unflatten(1, (-1, 32)).abs().amax(-1)
    assert parts["weight_scale"].dtype is torch.bfloat16
    assert torch.equal(parts["weight_scale"], (largest / 7).bfloat16())


def test_powers_of_two_are_exact_in_mxfp8() -> None:
    """448 itself must not be doubled: the scale of 448 is 1, that of the next larger number 2."""
    row = torch.zeros(3, 32)
    row[0, 0], row[1, 0], row[2, 0] = 448.0, 448.5, 2.0**-120
    parts = encoding_of(ServedForm(WeightForm.mxfp8)).encode(row)
    assert parts["weight_scale_inv"].flatten().tolist()[:2] == [127, 128]
    assert torch.equal(encoding_of(ServedForm(WeightForm.mxfp8)).rounded(row)[2], row[2])
