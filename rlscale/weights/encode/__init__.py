"""Weights as codes and scales, as engines hold them, and what those codes are worth."""

from __future__ import annotations

from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.weights.encode.encoding import Encoding
from rlscale.weights.encode.fp8 import Fp8Block, Fp8Tensor
from rlscale.weights.encode.int4 import Int4
from rlscale.weights.encode.mxfp8 import MxFp8

__all__ = ["Encoding", "encoding_of"]


def encoding_of(form: ServedForm) -> Encoding:
    """The encoding of a form. ValueError for weights that stay as they are."""
    match form.kind:
        case WeightForm.fp8_block:
            return Fp8Block(form)
        case WeightForm.fp8_tensor:
            return Fp8Tensor(form)
        case WeightForm.int4:
            return Int4(form)
        case WeightForm.mxfp8:
            return MxFp8(form)
    raise ValueError("weights that are served as trained have no encoding")
