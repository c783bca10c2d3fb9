"""Sums and maxima of an iteration's micro-batches, reduced once over all ranks at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.steps.optimizer import StepResult
from rlscale.trainer.objective_metrics import Metrics, finish, mismatch_of

_FIRST = ("ppo_kl", "ratio_max", "centering_gap")
"""Metrics of the first step alone, before the weights have moved: where the old log-probs are by the same weights the
first two must be 0 and 1, and the third is what the engine differs by."""


class IterationMetrics:
    """Collects on every rank; `reduce` gives the same numbers to all of them."""

    def __init__(self, ranks: Ranks, device: torch.device, *, mismatch_drifts: bool = False) -> None:
        """`mismatch_drifts`: see Objective.mismatch_drifts."""
        self._ranks, self._device, self._mismatch_drifts = ranks, device, mismatch_drifts
        self._steps: list[dict[str, dict[str, Tensor]]] = []
        self._losses: list[Tensor] = []
        self._results: list[StepResult] = []

    def add(self, shares: Sequence[tuple[Tensor, Metrics]], result: StepResult) -> None:
        """A step: what its micro-batches gave on this rank (nothing except on the last stage) and what became of it."""
        self._results.append(result)
        if not shares:
            return
        self._losses.append(torch.stack([loss.double() for loss, _ in shares]).sum())
        first = shares[0][1]
        sums = {name: torch.stack([m.sums[name].double() for _, m in shares]).sum() for name in first.sums}
        maxima = {name: torch.stack([m.maxima[name].double() for _, m in shares]).max() for name in first.maxima}
        self._steps.append({"sums": sums, "maxima": maxima})

    def reduce(self) -> dict[str, float]:
        """Metrics of the iteration; collective over all ranks.

        `loss` is the mean over the steps that were made, and is left out if none was.
        """
        metrics: list[Any] = [self._of_the_objective() if self._ranks.last_stage else None]
        pipeline = self._ranks.pipeline_group
        if pipeline.size() > 1:
            last = dist.get_global_rank(pipeline, pipeline.size() - 1)
            dist.broadcast_object_list(metrics, src=last, group=pipeline, device=self._device)
        reduced: dict[str, float] = metrics[0]
        norms = [result.grad_norm for result in self._results if math.isfinite(result.grad_norm)]
        reduced["grad_norm"] = sum(norms) / len(norms) if norms else float("nan")
        of_mtp = [result.mtp_grad_norm for result in self._results if result.mtp_grad_norm is not None]
        if finite := [norm for norm in of_mtp if math.isfinite(norm)]:
            reduced["mtp_grad_norm"] = sum(finite) / len(finite)
        reduced["lr"] = self._results[-1].lr
        reduced["steps"] = float(len(self._results))
        reduced["skipped_steps"] = float(sum(result.skipped for result in self._results))
        if (scale := self._results[-1].loss_scale) is not None:
            reduced["loss_scale"] = scale
            reduced["overflows"] = float(sum(result.overflows for result in self._results))
        return reduced

    def _of_the_objective(self) -> dict[str, float]:
        """Over the ranks that hold logits; tensor-parallel ranks hold the same numbers."""
        sum_names, max_names = list(self._steps[0]["sums"]), list(self._steps[0]["maxima"])
        sums = torch.stack([torch.stack([step["sums"][name] for name in sum_names]) for step in self._steps])
        sums = torch.cat([sums, torch.stack(self._losses)[:, None]], dim=1)
        dist.all_reduce(sums, group=self._ranks.data_context_group)
        maxima = torch.zeros(len(self._steps), len(max_names), dtype=torch.float64, device=sums.device)
        if max_names:
            maxima = torch.stack([torch.stack([step["maxima"][name] for name in max_names]) for step in self._steps])
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=self._ranks.data_context_group)

        def finished(rows: slice) -> dict[str, float]:
            total, largest = sums[rows, :-1].sum(0).tolist(), maxima[rows].amax(0).tolist()
            return finish(dict(zip(sum_names, total, strict=True)), dict(zip(max_names, largest, strict=True)))

        metrics, first = finished(slice(None)), finished(slice(0, 1))
        metrics |= {f"{name}_first_step": first[name] for name in _FIRST if name in first}
        if self._mismatch_drifts:
            metrics = mismatch_of(first, metrics)
        made = [loss for loss, result in zip(sums[:, -1].tolist(), self._results, strict=True) if not result.skipped]
        if made:
            metrics["loss"] = sum(made) / len(made)
        return metrics
