"""Hugging Face safetensors into a rank's Megatron model: every rank reads what it needs, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.families import FolderError
from rlscale.families.fit import check_weights
from rlscale.families.stored_tensors import quantisation_of_folder, stored_tensors
from rlscale.families.weight_files import SUMS, tensors_of
from rlscale.platform.weight_checksums import checksum, sums_beside
from rlscale.weights.dequantise import dequantised
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import EXPERTS, ModelGroups, named_tensors


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """A FolderError within the block becomes a UserError that names the folder."""
    try:
        yield
    except FolderError as error:
        raise UserError(f"{folder}: {error}") from error


class WeightFolder:
    """The tensors of the model in a Hugging Face folder, by name, numbers all of them. Use it in a `with` block."""

    def __init__(self, folder: str | Path) -> None:
        """UserError if the folder's safetensors files are missing, broken or contradict each other or config.json."""
        self.folder = Path(folder)
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        with named(self.folder):
            found = tensors_of(self.folder)
            self._quantisation = quantisation_of_folder(self.folder)
            self._stored = stored_tensors(found, self._quantisation)
            self._sums = sums_beside(self.folder)
        self._file_of = {name: entry.file.name for name, entry in found.items()}

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
        return name in self._stored

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._stored)

    def file_of(self, name: str) -> str:
        """The name of the file that holds a tensor, or its codes."""
        return self._stored[name].entry.file.name

    def is_quantised(self, name: str) -> bool:
        """Whether the folder holds codes and scales of that tensor."""
        return bool(self._stored[name].codes)

    def read(self, name: str) -> Tensor:
        """The tensor of that name, dequantised to float32 where it is quantised. UserError if there is none."""
        if name not in self._stored:
            raise UserError(f"{self.folder} has no tensor {name!r}; are its config.json and weights of the same model?")
        stored = self._stored[name]
        if not stored.codes:
            return self._as_it_is(name)
        assert self._quantisation is not None
        rows, columns = stored.shape
        if stored.said_shape and self._as_it_is(stored.said_shape).tolist() != [rows, columns]:
            raise UserError(f"{self.folder}: {stored.said_shape} is not the shape of {stored.codes}, {[rows, columns]}")
        return dequantised(
            self._as_it_is(stored.codes), self._as_it_is(stored.scale), self._quantisation, (rows, columns)
        )

    def _as_it_is(self, name: str) -> Tensor:
        """A tensor of the files. UserError for one that is not what was written, as far as there are checksums."""
        tensor: Tensor = self._file(self._file_of[name]).get_tensor(name)
        if self._sums and checksum(tensor.flatten().view(torch.uint8).numpy().data) != self._sums.get(name):
            raise UserError(
                f"{self.folder}: {name} is not what was written (its checksum differs); fetch or export the folder "
                f"again, or remove its {SUMS} if the weights were changed on purpose"
            )
        return tensor


@torch.no_grad()
def load_weights(
    chunks: Sequence[torch.nn.Module],
    folder: str | Path,
    weights: WeightMap,
    groups: ModelGroups,
    padded_vocabulary: int,
    *,
    mtp: bool,
) -> None:
    """Fill the parameters of a rank's model chunks from a Hugging Face folder, cast to their type.

    Without `mtp` those of the layer that predicts a token further stay as they are, and so does a parameter whose rule
    is optional and whose tensor the folder lacks.
    UserError for a folder that does not hold this model and nothing else (`families.fit`), and for numbers that the
    parameters' type cannot hold.
    """
    with named(Path(folder)):
        check_weights(Path(folder), weights.config, weights.head, mtp=mtp)
    with WeightFolder(folder) as source:
        for name, parameter in named_tensors(chunks, groups.expert):
            if weights.is_mtp(name) and not mtp:
                continue
            if weights.rule(name).optional and any(hf_name not in source for hf_name in weights.hf_names(name)):
                continue
            tensors = [source.read(hf_name) for hf_name in weights.hf_names(name)]
            group = groups.expert_tensor if EXPERTS in name else groups.tensor
            full = weights.from_hf(name, tensors, padded_vocabulary)
            parameter.copy_(weights.shard(name, full, group.rank(), group.size()))
            if not torch.isfinite(parameter).all():
                raise UserError(f"{folder}: {_not_finite(weights.hf_names(name), tensors, parameter.dtype)}")


def _not_finite(names: Sequence[str], tensors: Sequence[Tensor], dtype: torch.dtype) -> str:
    """Why a parameter that these tensors form has numbers that are not finite."""
    for name, tensor in zip(names, tensors, strict=True):
        if not torch.isfinite(tensor).all():
            return f"{name} holds numbers that are not finite (inf or NaN)"
    largest = max(float(tensor.abs().max()) for tensor in tensors)
    short = str(dtype).removeprefix("torch.")
    return (
        f"{names[0]} holds numbers up to {largest:.3g}, too large for model.dtype={short}; choose bfloat16 or float32"
    )
