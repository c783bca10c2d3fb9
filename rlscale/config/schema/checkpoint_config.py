"""What is saved, how often, and how a run is continued."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Limit, Scope, Unread, bounded, key
from rlscale.config.schema.limits import COUNT, YEAR
from rlscale.config.schema.section import Section


class Resume(Enum):
    """Whether a run continues an unfinished one of the same recipe and configuration."""

    auto = "auto"
    never = "never"


class Order(Enum):
    """Which values of a metric are the better ones."""

    highest = "highest"
    lowest = "lowest"


_NONE_IS_BEST = Unread(
    lambda section: section.keep_best == 0, ": nothing is kept for being the best with checkpoint.keep_best=0; raise it"
)


@dataclass
class CheckpointConfig(Section):
    """Checkpoints of a run."""

    every: int = bounded(50, at_least=0, limit=COUNT, scope=Scope.execution)
    """Iterations between checkpoints; 0 leaves it to `checkpoint.every_s`, signals and the end of the run."""
    every_s: float | None = bounded(None, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds after which a checkpoint is due, too, at the end of the iteration that they pass in; null counts none."""
    before_s: float | None = bounded(120.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds before the end of the job (`run.time_limit_s`, or what Slurm says) at which the run saves and stops; null
    does not look at it."""
    asynchronous: bool = key(True, scope=Scope.execution)
    """Whether the run goes on while a checkpoint is written; every rank then holds a copy of it in host memory."""
    in_memory: bool | None = key(None, scope=Scope.execution)
    """Whether the trainer's state after each iteration is copied into Ray's object store, from where lost ranks go on
    (`run.recover`); null: where each rank's state is also another's (data or context parallelism, no
    `trainer.distributed_optimizer`)."""
    keep: int = bounded(2, at_least=1, limit=COUNT, scope=Scope.execution)
    """Newest checkpoints kept; older ones are removed after a newer one is whole."""
    keep_best: int = bounded(0, at_least=0, limit=Limit(1e6, "no disk holds that many"), scope=Scope.execution)
    """Checkpoints kept besides, however old: those of the iterations that `checkpoint.best_by` says are the best."""
    best_by: str = key("reward", scope=Scope.execution, unread=[_NONE_IS_BEST])
    """Metric (of metrics.jsonl) by which checkpoints are the best, as `reward` or `eval/pass@1`."""
    best_is: Order = key(Order.highest, scope=Scope.execution, unread=[_NONE_IS_BEST])
    """Whether the highest or the lowest values of that metric are the best."""
    finished_groups: bool = key(True, scope=Scope.execution)
    """Whether groups are also written down as they finish, so that a kill loses only what was being generated, and what
    is by weights over `rollout.max_staleness` later than the checkpoint's. `run.generate_only` writes none."""
    resume: Resume = key(Resume.auto, scope=Scope.this_run)
    """`auto` continues the newest unfinished run of this recipe and values, in any layout; `never` starts afresh."""
