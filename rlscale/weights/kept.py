"""Tensors of a model's folder that are not trained and go into exports as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlscale.families.tensors import is_kept
from rlscale.weights.load import WeightFolder


def kept_tensors(folder: str | Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The layers that predict further tokens, name and tensor, one after the other, bit by bit as in the folder.

    What is quantised there is bfloat16, rounded once. Engines read them from the folder that they are started with.
    """
    with WeightFolder(folder) as source:
        for name in source.names():
            if is_kept(name, config):
                tensor = source.read(name)
                yield name, tensor.bfloat16() if source.is_quantised(name) else tensor
