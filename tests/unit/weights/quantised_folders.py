"""Folders whose matrices are quantised in the forms that are published, and what their weights are in float64.

Codes and scales are made here by the forms' own rules and read back in NumPy, so that nothing of rlscale decides what
is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Parts = tuple[Tensors, NDArray[np.float64]]
"""The tensors of one weight by the ends of their names, and its numbers in float64."""

_LARGEST_FP8 = 448.0


def fp8(weight: Tensor, rows: int, columns: int, ending: str, scale_type: torch.dtype = torch.float32) -> Parts:
    """Codes of FP8 with a scale for each rectangle; 0 rows or columns: for all of them."""
    height, width = weight.shape
    rows, columns = rows or height, columns or width
    scales = torch.empty(-(-height // rows), -(-width // columns), dtype=scale_type)
    codes, numbers = torch.empty(height, width, dtype=torch.float8_e4m3fn), np.empty((height, width))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scales[i, j] = weight[at].abs().max() / _LARGEST_FP8
            codes[at] = (weight[at].double() / scales[i, j].double()).float().to(torch.float8_e4m3fn)
            numbers[at] = codes[at].double().numpy() * scales[i, j].double().numpy()
    return {"weight": codes, ending: scales}, numbers


def int4(weight: Tensor, group: int) -> Parts:
    """Packed whole numbers of four bits with a bfloat16 scale for each group of a row's columns."""
    height, width = weight.shape
    grouped = weight.view(height, width // group, group).double()
    scales = (grouped.abs().amax(-1) / 7).bfloat16()
    whole = (grouped / scales.double().unsqueeze(-1)).round().clamp(-7, 7).view(height, width).to(torch.int64).numpy()
    packed = np.zeros((height, width // 8), np.uint32)
    for column in range(width):  # eight to a word, the first in its lowest bits, 8 added to each
        packed[:, column // 8] |= (whole[:, column] + 8).astype(np.uint32) << np.uint32(4 * (column % 8))
    parts = {
        "weight_packed": torch.from_numpy(packed.view(np.int32)),
        "weight_scale": scales,
        "weight_shape": torch.tensor([height, width], dtype=torch.int32),
    }
    return parts, whole * np.repeat(scales.double().numpy(), group, axis=1)


@dataclass(frozen=True)
class Form:
    """A form of quantisation."""

    section: dict[str, Any]
    """The quantization_config of its folders."""
    quantise: Callable[[Tensor], Parts]


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    """compressed-tensors' section with one group of modules."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


_FLOAT8 = {"num_bits": 8, "type": "float"}
FORMS = {
    "blocks of FP8": Form(
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [8, 5]},
        lambda weight: fp8(weight, 8, 5, "weight_scale_inv"),
    ),
    "one scale for each matrix": Form({"quant_method": "fp8"}, lambda weight: fp8(weight, 0, 0, "weight_scale")),
    "a scale for each row": Form(
        compressed("float-quantized", strategy="channel", **_FLOAT8),
        lambda weight: fp8(weight, 1, 0, "weight_scale", torch.bfloat16),
    ),
    "packed in four bits": Form(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=8),
        lambda weight: int4(weight, 8),
    ),
}


def is_matrix(name: str) -> bool:
    """Whether published folders quantise a tensor: projections, not the embedding, the head or a router."""
    return name.endswith("_proj.weight")


def write_quantised(folder: Path, config: dict[str, Any], weights: Tensors, form: Form) -> dict[str, Any]:
    """Write a folder of three files, scales in other files than their codes; its weights by name, float64."""
    files: list[Tensors] = [{}, {}, {}]
    numbers: dict[str, Any] = {}
    for number, (name, weight) in enumerate(weights.items()):
        if not is_matrix(name):
            files[0][name], numbers[name] = weight, weight.double().numpy()
            continue
        parts, numbers[name] = form.quantise(weight)
        for place, (ending, tensor) in enumerate(parts.items()):
            files[(number + place) % 3][name.removesuffix("weight") + ending] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    located = {}
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05d}-of-00003.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        located |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": located}))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": form.section}))
    return numbers
