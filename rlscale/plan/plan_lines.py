"""A plan for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlscale.config.schema import Config
from rlscale.plan.iteration_time import IterationTime, Span
from rlscale.plan.planned_run import USABLE, Phase, Plan, untimed
from rlscale.plan.trainer_memory import GIB

_SHOWN = 0.005 * GIB


def lines(config: Config, plan: Plan) -> Iterator[str]:
    """What the plan says, line by line."""
    layout = plan.layout
    trainer = (
        f"trainer TP {layout.tensor} PP {layout.pipeline} CP {layout.context} EP {layout.expert} DP {layout.data} "
        f"on {layout.ranks} ranks"
    )
    model = f"{config.run.recipe}: model {config.model.name}, {plan.parameters / 1e9:.3g}B parameters"
    yield f"{model}; {trainer if plan.ranks else 'no trainer'}"
    if plan.reach is not None:
        yield f"attention is computed to all tokens: at most {plan.reach.tokens:,} in a sequence ({plan.reach.key})"
    room = USABLE * plan.device_bytes
    known = plan.device_bytes != float("inf")
    yield "memory in GiB" + (
        f", of {plan.device_bytes / GIB:.1f} ({USABLE:.0%} of it can be filled):" if known else ":"
    )
    for phase in _worst_of_each(plan.phases):
        mark = "" if phase.total <= room else "   DOES NOT FIT"
        yield f"  {phase.name:<10} {phase.where:<14} {phase.total / GIB:8.2f}  ({kinds(phase.kinds)}){mark}"
    if plan.engine is not None:
        tokens = plan.engine.cached_tokens
        yield f"  an engine's cache holds {tokens:,.0f} tokens" + (
            "" if plan.longest_fits else ": NOT THE LONGEST SAMPLE"
        )
    if plan.host:
        yield f"  host memory of a machine {sum(plan.host.values()) / GIB:8.1f}  ({kinds(plan.host)})"
    if plan.time is not None:
        yield from _time_lines(plan.time)
    else:
        yield f"time of an iteration: not estimated {untimed(config)}"
    worst, without = plan.worst, f" without {' and '.join(plan.uncounted)}" if plan.uncounted else ""
    if plan.uncounted:
        yield f"NOT COUNTED: {', '.join(plan.uncounted)}; add what one more model of its size takes"
    if plan.fits:
        yield f"fits{without}" + (
            f": the fullest phase ({worst.name}) takes {worst.total / plan.device_bytes:.0%}" if known else ""
        )
    elif worst.total > room:
        yield f"does not fit: {worst.name} needs {(worst.total - room) / GIB:.1f} GiB more than there are"
    else:
        yield "does not fit: an engine cannot hold the longest sample; raise rollout.gpus_per_engine"


def kinds(found: Mapping[str, float]) -> str:
    """Bytes by kind, the largest first, as "weights 1.20, gradients 2.40"."""
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in ordered if size >= _SHOWN) or "under 0.01"


def _worst_of_each(phases: tuple[Phase, ...]) -> Iterator[Phase]:
    """All stages in training, where they differ; of the other phases the fullest."""
    shown: dict[str, Phase] = {}
    for phase in phases:
        key = f"{phase.name} {phase.where}" if phase.name in ("train", "generate") else phase.name
        if key not in shown or phase.total > shown[key].total:
            shown[key] = phase
    yield from shown.values()


def _time_lines(time: IterationTime) -> Iterator[str]:
    parts = {"generate": time.generate, "log-probs": time.logprobs, "train": time.train, "sync": time.sync}
    told = ", ".join(f"{name} {_seconds(span)}" for name, span in parts.items() if span.most)
    yield f"time of an iteration {_seconds(time.whole)}: {told}"
    speed, used = time.tokens_per_gpu, time.utilisation
    yield (
        f"  {speed.least:,.0f} to {speed.most:,.0f} tokens/s/GPU, MFU in training {used.least:.0%} to {used.most:.0%}; "
        f"bound by {time.bound}"
    )
    yield "  by an H100's speeds; the range is that of unknown lengths and of what published runs reach"


def _seconds(span: Span) -> str:
    return f"{rounded(span.least)} to {rounded(span.most)} s"


def rounded(value: float) -> str:
    """Two digits that count, no more than is known, as "0.16", "4.2", "83" or "8,400"."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"
