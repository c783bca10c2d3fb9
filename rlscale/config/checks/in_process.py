"""Runs that are of another kind: all of it in one process (`run.in_process`), or a single step (`run.smoke`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.run_config import Progress


def one_process_is_enough(context: CheckContext) -> Iterator[str]:
    """One rank on one machine, and a terminal that is a debugger's."""
    config = context.config
    if not config.run.in_process:
        return
    ranks = context.sizes.trainer_ranks
    if context.needs.trains and ranks > 1:
        yield (
            f"run.in_process=true: the trainer has {ranks} ranks, and one process can only be one of them; use "
            "parallel=single (debug=tiny_model does), or leave run.in_process out"
        )
    if config.cluster.nodes > 1:
        yield f"run.in_process=true: cluster.nodes={config.cluster.nodes}, and nothing starts on another machine; use 1"
    if config.cluster.ray_address is not None:
        yield "run.in_process=true: no Ray is asked; leave cluster.ray_address out"
    if config.run.progress is Progress.live:
        yield "run.in_process=true: run.progress=live would redraw what a debugger prints; use plain"


def a_step_is_made(context: CheckContext) -> Iterator[str]:
    """`run.smoke` is about the trainer."""
    if context.config.run.smoke and not context.needs.trains:
        yield "run.smoke=true: nothing is trained with run.generate_only=true; leave one of them out"


IN_PROCESS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (one_process_is_enough, a_step_is_made)
