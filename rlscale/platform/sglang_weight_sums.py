"""The checksum of every tensor as an SGLang server holds it, under the names of a Hugging Face folder, on every device.

SGLang's call `/weights_checker` hashes what it holds under its own names, on GPUs only. Here it knows a further action:
queries, keys and values, gates and experts, which it keeps as one tensor, are told in their parts besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlscale.platform.tensor_sum import TensorSum

if TYPE_CHECKING:
    from torch import Tensor

CHECKER = "sglang.srt.utils.weight_checker"
PATH, ACTION = "/weights_checker", "rlscale_sums"

_PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
}
"""Layers that SGLang keeps as one, and what they are in a folder, row by row."""
_EXPERTS = {"w13_weight": ("gate_proj", "up_proj"), "w2_weight": ("down_proj",)}
"""The same of tensors that hold all experts."""


def adapt_checker(module: Any) -> None:
    """CHECKER: a further action."""
    checker = module.WeightChecker
    if hasattr(checker, ACTION):
        return
    setattr(checker, ACTION, True)
    handle = checker.handle

    def handle_sums(self: Any, action: str, allow_quant_error: bool = False) -> Any:
        if action != ACTION:
            return handle(self, action, allow_quant_error)
        sums = {name: str(TensorSum.of(tensor)) for name, tensor in named_tensors(self._get_model())}
        return {
            "checksums": sums,
            "per_gpu_checksum": "",
            "parallelism_info": self._parallelism_info().model_dump(),
        }

    checker.handle = handle_sums


def named_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of SGLang's model as it is, and by its parts; rows that only pad a vocabulary are left out."""
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        layer = layers[path]
        rows = getattr(layer, "org_vocab_size", None)
        tensor = parameter.data if rows is None else parameter.data[:rows]
        yield name, tensor
        before, _, last = path.rpartition(".")
        sizes = getattr(layer, "output_partition_sizes", ())
        if last in _PARTS and len(sizes) == len(_PARTS[last]):
            for part, rows_of_it in zip(_PARTS[last], tensor.split(list(sizes)), strict=True):
                yield f"{before}.{part}.{leaf}", rows_of_it
        elif leaf in _EXPERTS and tensor.dim() == 3:
            for number, expert in enumerate(tensor):
                for part, rows_of_it in zip(_EXPERTS[leaf], expert.chunk(len(_EXPERTS[leaf])), strict=True):
                    yield f"{path}.{number}.{part}.weight", rows_of_it
