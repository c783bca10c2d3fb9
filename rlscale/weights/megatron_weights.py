"""The trainer's weights as a stream of buckets of named Hugging Face tensors, gathered over all ranks of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.weights.bucket import Bucket
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import EXPERTS, ModelGroups, named_tensors


@dataclass(frozen=True)
class _Item:
    """A parameter as every rank of the model must know it."""

    name: str
    stage: int
    shape: torch.Size
    dtype: torch.dtype


class Adapted(Protocol):
    """What adds to weights before they are sent."""

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """This rank's part of the weight of that name, with what is added to it."""


class MegatronWeights:
    """The weights of a Megatron model (a WeightSource)."""

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        weights: WeightMap,
        groups: ModelGroups,
        bucket_bytes: int,
        adapters: Adapted | None = None,
    ) -> None:
        """`chunks`: this rank's model, without wrappers. A bucket is closed before it passes `bucket_bytes`.

        With `adapters` the weights are those with the adapters merged into them.

        Collective over the pipeline stages.
        """
        self._weights, self._groups, self._limit, self._adapters = weights, groups, bucket_bytes, adapters
        self._parameters = dict(named_tensors(chunks, groups.expert))
        self._items = self._agree()

    def _agree(self) -> list[_Item]:
        """All parameters in an order that every rank shares; the experts are those of this rank."""
        stage = self._groups.pipeline.rank()
        own = [
            _Item(name, stage, parameter.shape, parameter.dtype)
            for name, parameter in self._parameters.items()
            # A tied model split into stages has its embedding twice: as such, and as the last stage's output layer.
            if not (name == "output_layer.weight" and self._weights.tied)
        ]
        own = self._beside(own)
        if self._groups.pipeline.size() == 1:
            return own
        every: list[list[_Item]] = [[] for _ in range(self._groups.pipeline.size())]
        dist.all_gather_object(every, own, group=self._groups.pipeline)
        return [item for items in every for item in items]

    def _beside(self, items: list[_Item]) -> list[_Item]:
        """The items in their order, but each that engines put together with another one right behind that."""
        behind = {self._partner(item.name): item for item in items if self._partner(item.name) is not None}
        first = [item for item in items if self._partner(item.name) is None]
        return [each for item in first for each in (item, behind.get(item.name)) if each is not None]

    def _partner(self, name: str) -> str | None:
        """The parameter whose tensors must be in the same bucket, in front of this one's."""
        return self._weights.beside(name)

    def buckets(self, version: int) -> Iterator[Bucket]:
        """See WeightSource. The tensors may share memory with the parameters: use them before the next step."""
        named: list[tuple[str, Tensor]] = []
        size = 0
        for together in self._inseparable():
            bytes_of_all = sum(tensor.nbytes for _, tensor in together)
            if named and size + bytes_of_all > self._limit:
                yield Bucket(named, version)
                named, size = [], 0
            named += together
            size += bytes_of_all
        if named:
            yield Bucket(named, version)

    def _inseparable(self) -> Iterator[list[tuple[str, Tensor]]]:
        """All tensors, those that must be in one bucket together: most are alone."""
        for number, item in enumerate(self._items):
            if self._partner(item.name) is not None:
                continue  # came with the one before it
            tensors = self._whole(item)
            follower = self._items[number + 1] if number + 1 < len(self._items) else None
            if follower is not None and self._partner(follower.name) == item.name:
                yield [*tensors, *self._whole(follower)]
            else:
                yield from ([tensor] for tensor in tensors)

    @torch.no_grad()
    def _whole(self, item: _Item) -> Iterator[tuple[str, Tensor]]:
        """The Hugging Face tensors of a parameter and, for an expert, of the same expert of the other expert ranks."""
        expert = EXPERTS in item.name
        parameter = self._of_its_stage(item)
        copies = _all_gather(parameter, self._groups.expert) if expert else [parameter]
        for rank, copy in enumerate(copies):
            name = self._same_on(item.name, rank) if expert else item.name
            if self._weights.rule(name).split is None:
                full = copy
            else:
                group = self._groups.expert_tensor if expert else self._groups.tensor
                full = self._weights.merge(name, _all_gather(copy, group))
            yield from self._weights.to_hf(name, full)

    def _of_its_stage(self, item: _Item) -> Tensor:
        """The parameter itself, sent to the other pipeline stages if there are any."""
        pipeline = self._groups.pipeline
        parameter = self._parameters.get(item.name) if item.stage == pipeline.rank() else None
        if parameter is None:
            device = next(iter(self._parameters.values())).device
            parameter = torch.empty(item.shape, dtype=item.dtype, device=device)
        elif self._adapters is not None:
            parameter = self._adapters.merged(item.name, parameter)
        parameter = parameter.detach()
        if pipeline.size() > 1:
            dist.broadcast(parameter, dist.get_global_rank(pipeline, item.stage), group=pipeline)
        return parameter

    def _same_on(self, name: str, rank: int) -> str:
        """The global name that this rank's expert parameter has on another expert-parallel rank."""
        stem, _, number = name.rpartition("weight")
        per_rank = sum(item.name.startswith(f"{stem}weight") for item in self._items)
        return f"{stem}weight{int(number) % per_rank + rank * per_rank}"


def _all_gather(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The tensor of every rank of the group, all of one shape."""
    if group.size() == 1:
        return [tensor]
    tensor = tensor.contiguous()
    gathered = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(gathered, tensor, group=group)
    return gathered
