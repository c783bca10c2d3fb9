"""Frequencies of rotary positions, operation by operation as transformers computes them: the same bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlscale.families.rotary import Rotary


def frequencies(rotary: Rotary, head_size: int) -> Tensor:
    """Angle per position, float32 [turned numbers of a head / 2]. Source: modeling_rope_utils.py (5.12)."""
    size = int(head_size * rotary.share)
    wave = rotary.base ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    plain = 1.0 / wave
    match rotary.kind:
        case "default" | "dynamic":  # no sequence is so long that dynamic scaling begins
            return plain
        case "linear":
            return plain / rotary.scaling["factor"]
        case "llama3":
            return _llama3(plain, rotary)
        case "yarn":
            return _yarn(wave, rotary)
    raise ValueError(f"rope scaling of type {rotary.kind} is not known")


def _llama3(plain: Tensor, rotary: Rotary) -> Tensor:
    """Long waves are slowed by the factor, short ones stay, those between are mixed."""
    scaling = rotary.scaling
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    length = scaling["original_max_position_embeddings"]
    wavelength = 2 * math.pi / plain
    slowed = torch.where(wavelength > length / low, plain / factor, plain)
    smooth = (length / wavelength - low) / (high - low)
    mixed = (1 - smooth) * slowed / factor + smooth * slowed
    between = ~(wavelength < length / high) * ~(wavelength > length / low)
    return torch.where(between, mixed, slowed)


def _yarn(wave: Tensor, rotary: Rotary) -> Tensor:
    """YaRN (arXiv 2309.00071), section 3.2."""
    scaling, size = rotary.scaling, 2 * len(wave)
    length = scaling["original_max_position_embeddings"]

    def dimension_of(rotations: float) -> float:
        return (size * math.log(length / (rotations * 2 * math.pi))) / (2 * math.log(rotary.base))

    low, high = dimension_of(scaling["beta_fast"]), dimension_of(scaling["beta_slow"])
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001
    ramp = torch.clamp((torch.arange(size // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling["factor"] * wave) * (1 - kept) + 1.0 / wave * kept
