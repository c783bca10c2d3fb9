"""The checksum of every tensor as an SGLang server holds it, under the names of a Hugging Face folder, on every device.

SGLang's call `/weights_checker` hashes what it holds under its own names, on GPUs only. Here it knows a further action:
queries, keys and values, gates and experts, which it keeps as one tensor, are told in their parts besides, and without
the rows and columns by which it pads a layer to what its kernels want.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscale.families.family import FolderError
from rlscale.families.weight_files import tensors_of
from rlscale.platform.adapting import adapts_now
from rlscale.platform.tensor_sum import TensorSum

if TYPE_CHECKING:
    from torch import Tensor

CHECKER = "sglang.srt.utils.weight_checker"
PATH, ACTION = "/weights_checker", "rlscale_sums"

_PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Layers that SGLang keeps as one, and what they are in a folder, row by row."""
_LATENT = "fused_qkv_a_proj_with_mqa", ("q_a_proj", "kv_a_proj_with_mqa")
"""The same of latent attention, which knows the rows of the first."""
_EXPERTS = {"w13_weight": ("gate_proj", "up_proj"), "w2_weight": ("down_proj",)}
"""The same of tensors that hold all experts."""


def adapt_checker(module: Any) -> None:
    """CHECKER: a further action."""
    checker = module.WeightChecker
    if not adapts_now(checker, ACTION):
        return
    handle = checker.handle

    def handle_sums(self: Any, action: str, allow_quant_error: bool = False) -> Any:
        if action != ACTION:
            return handle(self, action, allow_quant_error)
        model = self._get_model()
        shapes = _shapes_of(str(getattr(model.config, "name_or_path", "")))
        named = ((_name_in(shapes, name), tensor) for name, tensor in named_tensors(model))
        sums = {name: str(TensorSum.of(_cut(tensor, shapes.get(name)))) for name, tensor in named}
        return {
            "checksums": sums,
            "per_gpu_checksum": "",
            "parallelism_info": self._parallelism_info().model_dump(),
        }

    checker.handle = handle_sums


def named_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of SGLang's model as it is, and by its parts."""
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        layer = layers[path]
        tensor = parameter.data
        yield name, tensor
        before, _, last = path.rpartition(".")
        sizes, parts = list(getattr(layer, "output_partition_sizes", ())), _PARTS.get(last, ())
        if last == _LATENT[0]:
            first, parts = layers[before].q_lora_rank, _LATENT[1]
            sizes = [first, len(tensor) - first]
        if parts and len(sizes) == len(parts):
            for part, rows in zip(parts, tensor.split(sizes), strict=True):
                yield f"{before}.{part}.{leaf}", rows
        elif leaf in _EXPERTS and tensor.dim() == 3:
            for number, expert in enumerate(tensor):
                for part, rows in zip(_EXPERTS[leaf], expert.chunk(len(_EXPERTS[leaf])), strict=True):
                    yield f"{path}.{number}.{part}.weight", rows


def _shapes_of(folder: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of the folder that the engine was started from; none where it is gone."""
    try:
        return {name: entry.shape for name, entry in tensors_of(Path(folder)).items()}
    except (FolderError, OSError):
        return {}


def _name_in(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    """The folder's name of a tensor: SGLang has the attention of Qwen3-Next without a module of its own."""
    within = re.sub(r"(\.layers\.\d+)\.", r"\1.self_attn.", name, count=1)
    return within if name not in shapes and within in shapes else name


def _cut(tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """The tensor without what pads it beyond a shape."""
    if shape is None or len(shape) != tensor.dim():
        return tensor
    return tensor[tuple(slice(size) for size in shape)]
