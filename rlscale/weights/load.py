"""Hugging Face safetensors into a rank's Megatron model: every rank reads what it needs, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import EXPERTS, ModelGroups, named_parameters

INDEX = "model.safetensors.index.json"


class WeightFolder:
    """The tensors of a Hugging Face folder, by name. Use it in a `with` block."""

    def __init__(self, folder: str | Path) -> None:
        """UserError if the folder holds no safetensors."""
        self.folder = Path(folder)
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._file_of = self._locate()

    def _locate(self) -> dict[str, str]:
        index = self.folder / INDEX
        if index.is_file():
            located: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return located
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise UserError(f"{self.folder} holds no *.safetensors, so there are no weights to start from")
        return {name: file.name for file in files for name in self._file(file.name).keys()}  # noqa: SIM118 - no mapping

    def _file(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = self._open.enter_context(safe_open(str(self.folder / name), framework="pt"))
            except Exception as error:  # safetensors raises its own and OSError; both name no file
                raise UserError(f"{self.folder / name} cannot be read: {error}") from error
        return self._files[name]

    def __enter__(self) -> WeightFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def read(self, name: str) -> Tensor:
        """The tensor of that name. UserError if there is none."""
        if name not in self._file_of:
            raise UserError(f"{self.folder} has no tensor {name!r}; are its config.json and weights of the same model?")
        tensor: Tensor = self._file(self._file_of[name]).get_tensor(name)
        return tensor


@torch.no_grad()
def load_weights(
    chunks: Sequence[torch.nn.Module],
    folder: str | Path,
    weights: WeightMap,
    groups: ModelGroups,
    padded_vocabulary: int,
) -> None:
    """Fill the parameters of a rank's model chunks from a Hugging Face folder, cast to their type.

    A parameter whose rule is optional and whose tensor the folder lacks stays as it is.
    UserError for any other missing tensor, or a shape that does not fit.
    """
    with WeightFolder(folder) as source:
        for name, parameter in named_parameters(chunks, groups.expert):
            if weights.rule(name).optional and any(hf_name not in source for hf_name in weights.hf_names(name)):
                continue
            tensors = [source.read(hf_name) for hf_name in weights.hf_names(name)]
            group = groups.expert_tensor if EXPERTS in name else groups.tensor
            full = weights.from_hf(name, tensors, padded_vocabulary)
            shard = weights.shard(name, full, group.rank(), group.size())
            if shard.shape != parameter.shape:
                raise UserError(
                    f"{folder}: {weights.hf_names(name)[0]} gives shape {tuple(shard.shape)} where the model's "
                    f"config.json asks for {tuple(parameter.shape)}"
                )
            parameter.copy_(shard)
