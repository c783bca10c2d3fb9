"""How fast an iteration's steps were: the time of their parts, waiting, FLOPs/s and utilisation.

Every step ends with all ranks together (they share its gradient norm), so within a step

    slowest rank's forward and backward + reduction of gradients + optimizer = the time of the step

and a rank waits, inside the reduction, for as long as the slowest one's passes take longer than its own. The reduction
itself is what it takes the rank that waits least; where it overlaps with the backward pass, what is left of it. Nothing
is measured with a barrier: each rank notes its own times, and they are compared once per iteration.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from rlscale.config.schema.algo_config import AlgoConfig
from rlscale.data.batches.batch import Batch
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.steps.stopwatch import Stopwatch

PASSES, REDUCTION, OPTIMIZER = "passes", "reduction", "optimizer"
"""Names of a step's spans; the reduction lies within the passes."""


def speed_metrics(
    watch: Stopwatch, seconds: float, flops: float, peak: float | None, device: torch.device
) -> dict[str, float]:
    """Metrics of an iteration's steps, the same on every rank; collective over all of them.

    `seconds`: of all steps on this rank. `flops`: this rank's share, so that the sum over all ranks is that of the
    steps. `peak`: FLOPs/s of one device, if known.
    """
    spans = watch.take()
    reduction = torch.tensor(spans[REDUCTION], dtype=torch.float64)
    busy = torch.tensor(spans[PASSES], dtype=torch.float64) - reduction
    optimizer = torch.tensor([sum(spans[OPTIMIZER]), seconds], dtype=torch.float64)
    steps, ranks = len(busy), dist.get_world_size()
    largest = torch.cat([busy, -reduction, optimizer]).to(device)
    summed = torch.cat([busy, torch.tensor([flops], dtype=torch.float64)]).to(device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    dist.all_reduce(summed)
    slowest, total = largest[:steps].sum().item(), summed[:-1].sum().item()
    per_device = summed[-1].item() / largest[-1].item() / ranks
    metrics = {
        "seconds_forward_backward": slowest,
        "seconds_waiting": max(slowest - total / ranks, 0.0),
        "seconds_grad_reduce": -largest[steps : 2 * steps].sum().item(),
        "seconds_optimizer": largest[-2].item(),
        "tflops_per_device": per_device / 1e12,
    }
    if peak is not None:
        metrics["utilisation"] = per_device / peak
    return metrics


def sizes(
    own: Batch, microbatches: int, algo: AlgoConfig, seconds: float, ranks: Ranks, platform: Platform
) -> dict[str, float]:
    """What an iteration was made of, over all data-parallel ranks: metrics, the same on every rank; collective.

    `own`: this rank's part of the batch. `microbatches`, `seconds`: of all its steps and epochs on this rank.
    """
    totals = torch.tensor([float(own.tokens_total), float(own.rows)], dtype=torch.float64, device=platform.device)
    dist.all_reduce(totals, group=ranks.data_context_group)
    tokens, rows = (totals / ranks.slicing.context_size).tolist()
    peak = torch.tensor(float(platform.memory_peak_bytes()), dtype=torch.float64, device=totals.device)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return {
        "trained_tokens": tokens * algo.epochs_per_iteration,
        "trained_rows": rows,
        "microbatches": float(microbatches),
        "train_seconds": seconds,
        "train_tokens_per_s": tokens * algo.epochs_per_iteration / seconds,
        "memory_peak_gb": peak.item() / 1e9,
    }
