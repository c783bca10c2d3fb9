"""Tensors in exports that the trainer does not have: as the model's folder has them. The layer that predicts further
tokens is one of them, or as it was trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlscale.families.family import Head
from rlscale.families.multi_token_prediction import copies
from rlscale.families.tensors import expected_tensors, is_kept
from rlscale.platform.weight_checksums import sums_beside
from rlscale.weights.bucket import Bucket, WeightSource
from rlscale.weights.load import WeightFolder, named


def kept_tensors(folder: str | Path, config: Mapping[str, Any], *, mtp: bool = False) -> Iterator[tuple[str, Tensor]]:
    """What is kept (`is_kept`), name and tensor, one after the other, bit by bit as in the folder.

    What is quantised there is bfloat16, rounded once. Engines read them from the folder that they are started with.
    `mtp`: the layer is trained, and what a `WithCopies` of the trainer's weights has of it is left out.
    """
    exported = {*expected_tensors(config, Head.language, mtp=True), *copies(config)} if mtp else {}
    with WeightFolder(folder) as source:
        for name in source.names():
            if is_kept(name, config) and name not in exported:
                tensor = source.read(name)
                yield name, tensor.bfloat16() if source.is_quantised(name) else tensor


def look_at_kept(folder: str | Path, config: Mapping[str, Any], *, mtp: bool) -> None:
    """Read what exports will keep, where the folder has checksums. UserError for a tensor that is not what was written.

    Training needs none of it, and would be told at the first export. `mtp`: see `kept_tensors`.
    """
    with named(Path(folder)):
        has_sums = bool(sums_beside(Path(folder)))
    for _ in kept_tensors(folder, config, mtp=mtp) if has_sums else ():
        pass


def of_policy(
    source: WeightSource, folder: str | Path, config: Mapping[str, Any], *, mtp: bool
) -> tuple[WeightSource, Iterator[tuple[str, Tensor]]]:
    """What an export of the policy has: a source of its weights, and what is kept of the model's folder besides."""
    kept = kept_tensors(folder, config, mtp=mtp)
    return WithCopies(source, folder, config) if mtp else source, kept


class WithCopies:
    """Weights (a WeightSource) with the copies that the model's folder holds of embedding and head.

    A trained layer shares both with the model; left as they are, the copies would be of weights that are no more.
    """

    def __init__(self, source: WeightSource, folder: str | Path, config: Mapping[str, Any]) -> None:
        self._source = source
        self._copies: dict[str, list[str]] = defaultdict(list)
        with WeightFolder(folder) as held:
            for name, of_model in copies(config).items():
                if name in held:
                    self._copies[of_model].append(name)

    def buckets(self, version: int) -> Iterator[Bucket]:
        """See WeightSource."""
        for bucket in self._source.buckets(version):
            repeated = [(copy, tensor) for name, tensor in bucket.named for copy in self._copies.get(name, ())]
            yield Bucket([*bucket.named, *repeated], bucket.version)
