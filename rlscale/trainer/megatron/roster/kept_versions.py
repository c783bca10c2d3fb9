"""The policy's weights of earlier versions, for the log-probs of tokens by the very weights that sampled them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.roster.frozen_weights import FrozenWeights


@dataclass(frozen=True)
class SamplingWeights:
    """By which weights the log-probs of micro-batches are. The same on every rank, except `chosen`."""

    versions: list[int]
    """Versions whose weights some rank needs, ascending."""
    chosen: list[Tensor]
    """int [T] of each micro-batch: the version whose weights a token's log-prob is by."""
    missing: float
    """Share of the trainable tokens of all ranks that weights of another version stand in for."""


class KeptVersions:
    """Copies in host memory of a model's weights of the last `limit` versions."""

    def __init__(self, model: Model, limit: int) -> None:
        self.limit = limit
        """Versions that are kept at most."""
        self.missing = 0.0
        """Share of the last pass's trainable tokens, of all ranks, that weights of another version stood in for."""
        self._model = model
        self._kept: dict[int, FrozenWeights] = {}

    @property
    def versions(self) -> list[int]:
        """The versions that are kept, ascending."""
        return sorted(self._kept)

    def keep(self, version: int) -> None:
        """Copy the model's weights as those of `version`, before they change. The oldest ones are forgotten."""
        self._kept.pop(version, None)
        for oldest in self.versions[: max(len(self._kept) + 1 - self.limit, 0)]:  # before their successors need memory
            del self._kept[oldest]
        if self.limit:
            self._kept[version] = FrozenWeights(self._model)

    def forget(self) -> None:
        """Keep none of them."""
        self._kept = {}

    def tensors(self, version: int) -> list[Tensor]:
        """The kept weights of `version` themselves, in host memory."""
        return self._kept[version].tensors

    @contextmanager
    def in_place(self, version: int) -> Iterator[None]:
        """Within the block the model computes with the kept weights of `version`. Forward passes only."""
        with self._kept[version].in_place():
            yield

    def sampling_weights(self, microbatches: Sequence[MicroBatch], present: int, ranks: Ranks) -> SamplingWeights:
        """What can be had for the micro-batches' `versions`, where the model's own weights are those of `present`.

        Collective: ranks with other tokens make the same passes.
        """
        available = torch.tensor([*(version for version in self.versions if version < present), present])
        chosen, counts = [], torch.zeros(len(available) + 1, dtype=torch.int64)
        for microbatch in microbatches:
            wanted = microbatch.fields["versions"].cpu()
            taken = nearest(wanted, available)
            chosen.append(taken)
            trainable = microbatch.trainable.cpu()
            wanted, taken = wanted[trainable], taken[trainable]
            counts[:-1] += (taken[:, None] == available).sum(0)
            counts[-1] += ((wanted != taken) & (wanted >= 0)).sum()
        device = self._model.parameters()[0].device  # NCCL cannot reduce a CPU tensor; there may be no micro-batch
        counts = counts.to(device)
        dist.all_reduce(counts, group=ranks.data_context_group)
        *of_version, missing = counts.tolist()
        used = [version for version, count in zip(available.tolist(), of_version, strict=True) if count]
        return SamplingWeights(used, [taken.to(device) for taken in chosen], missing / max(sum(of_version), 1))

    def logprobs(
        self,
        microbatches: Sequence[MicroBatch],
        present: int,
        ranks: Ranks,
        forward: Callable[[], list[Tensor] | None],
    ) -> list[Tensor] | None:
        """Log-probs of every micro-batch's labels, each by its token's version; shapes and None as `forward` gives.

        `forward` makes one pass with the model as it is then. The weights of `present` come last.
        """
        by = self.sampling_weights(microbatches, present, ranks)
        self.missing = by.missing
        merged: list[Tensor] | None = None
        for version in by.versions or [present]:
            with self.in_place(version) if version < present else nullcontext():
                values = forward()
            if merged is None or values is None:
                merged = values
                continue
            merged = [
                torch.where(taken == version, new, old)
                for taken, new, old in zip(by.chosen, values, merged, strict=True)
            ]
        return merged


def nearest(versions: Tensor, available: Tensor) -> Tensor:
    """The version to take for each token's own: that one, else the next newer one that there is, else the newest.

    Shapes: versions int [T], available int64 [k] ascending, k > 0 -> int64 [T]. Version -1, of tokens that no engine
    generated, takes the newest.
    """
    place = torch.searchsorted(available, versions.to(available.dtype)).clamp(max=len(available) - 1)
    return torch.where(versions < 0, available[-1], available[place])
