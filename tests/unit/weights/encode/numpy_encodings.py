"""The encodings once more, in NumPy and loop by loop: nothing of rlscale or torch decides what the bytes are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Parts = dict[str, NDArray[np.generic]]

_POSITIVE = np.array(  # what the bytes 0 to 126 of e4m3 mean: 4 bits of exponent, 3 of mantissa
    [(byte % 8) / 8 * 2.0**-6 if byte < 8 else (1 + byte % 8 / 8) * 2.0 ** (byte // 8 - 7) for byte in range(127)]
)


def e4m3(numbers: Floats) -> NDArray[np.uint8]:
    """The bytes of the nearest numbers, of two as near the even one; 448 for all that is larger."""
    size = np.abs(numbers.astype(np.float64))
    above = np.searchsorted(_POSITIVE, size).clip(1, 126)
    to_above, to_below = _POSITIVE[above] - size, size - _POSITIVE[above - 1]
    byte = np.where((to_above < to_below) | ((to_above == to_below) & (above % 2 == 0)), above, above - 1)
    return (byte + 128 * np.signbit(numbers)).astype(np.uint8)


def worth(codes: NDArray[np.uint8]) -> Floats:
    """The numbers that bytes of e4m3 mean."""
    return (np.where(codes < 128, 1, -1) * _POSITIVE[codes % 128]).astype(np.float32)


def to_a_tie(numbers: Floats) -> float:
    """How far the nearest of them is from lying in the middle of two numbers of e4m3, more than 1 / 256 apart."""
    size = np.abs(numbers.astype(np.float64))
    above = np.searchsorted(_POSITIVE, size).clip(1, 126)
    apart = _POSITIVE[above] - _POSITIVE[above - 1]
    return float(np.abs(size - _POSITIVE[above - 1] - apart / 2).min(initial=np.inf, where=apart > 2.0**-8))


def fp8_block(weight: Floats, block: int = 128, smallest: float = 1e-10) -> Parts:
    rows, columns = weight.shape
    scales = np.zeros((-(-rows // block), -(-columns // block)), np.float32)
    codes = np.zeros(weight.shape, np.uint8)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
            scales[i, j] = max(np.abs(weight[at]).max(), np.float32(smallest)) / np.float32(448)
            codes[at] = e4m3(weight[at] / scales[i, j])
    return {"weight": codes, "weight_scale_inv": scales}


def fp8_tensor(weight: Floats) -> Parts:
    parts = fp8_block(weight, max(weight.shape), 1e-12)
    return {"weight": parts["weight"], "weight_scale": parts["weight_scale_inv"].reshape(1)}


def int4(weight: Floats, group: int, largest: float, lowest: int) -> Parts:
    rows, columns = weight.shape
    scales = np.zeros((rows, columns // group), np.float32)
    packed = np.zeros((rows, columns // 8), np.uint32)
    for i in range(rows):
        for j in range(columns // group):
            part = weight[i, j * group : (j + 1) * group]
            scales[i, j] = np.abs(part).max() / np.float32(largest)
            for at, number in enumerate(part, start=j * group):
                whole = np.rint(number / scales[i, j]) if scales[i, j] else np.float32(0)
                nibble = int(min(max(whole, lowest), 7)) + 8
                packed[i, at // 8] |= np.uint32(nibble << 4 * (at % 8))
    shape = np.array([rows, columns], np.int32)
    return {"weight_packed": packed.view(np.int32), "weight_scale": scales, "weight_shape": shape}


def mxfp8(weight: Floats) -> Parts:
    rows, columns = weight.shape
    exponents = np.zeros((rows, columns // 32), np.uint8)
    codes = np.zeros(weight.shape, np.uint8)
    for i in range(rows):
        for j in range(columns // 32):
            part = weight[i, j * 32 : (j + 1) * 32]
            exponent = -127
            while np.abs(part).max() / np.float64(2.0**exponent) > 448:
                exponent += 1
            exponents[i, j] = exponent + 127
            codes[i, j * 32 : (j + 1) * 32] = e4m3((part / np.float64(2.0**exponent)).astype(np.float32))
    return {"weight": codes, "weight_scale_inv": exponents}
