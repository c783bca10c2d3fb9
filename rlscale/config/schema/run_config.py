"""The run itself: how long, where to, from which seed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from rlscale.config.schema.about import SUPERVISED, Limit, PathKind, Scope, Unread, Where, bounded, key, path_key
from rlscale.config.schema.limits import COUNT, PATIENCE, SEED, YEAR
from rlscale.config.schema.section import Section


class Progress(Enum):
    """How progress is shown."""

    auto = "auto"
    live = "live"
    plain = "plain"


class Recover(Enum):
    """What of a run is brought back when it dies, besides engines and their router."""

    none = "none"
    trainer = "trainer"


_NOTHING_RECOVERS = Unread(
    lambda section: section.recover is Recover.none, ": nothing is brought back with run.recover=none; leave it out"
)
_NO_TRAINER = Unread(lambda section: section.generate_only, " has no meaning without a trainer; leave it out")
_LOSS_AROUND_0 = Unread(
    Where.sampled,
    ": the loss of {algo} stays around 0 however good the policy is, and would end the run at once; leave it out (it "
    "is for algo=sft)",
)


@dataclass
class RunSection(Section):
    """The run itself."""

    recipe: str = MISSING
    """Name of the recipe; set from the recipe's file name."""
    iterations: int = bounded(100, at_least=1, limit=COUNT)
    """Iterations (collect, train, sync) of the run."""
    stop_loss: float | None = bounded(
        None, above=0, limit=Limit(1000, "no mean loss is that large", least=1e-9), unread=[_LOSS_AROUND_0]
    )
    """End training early, once the mean loss of the last 10 iterations is below this; null never does."""
    time_limit_s: float | None = bounded(None, above=0, limit=YEAR, scope=Scope.this_run)
    """Seconds that the command may run, where its job has a limit that Slurm does not tell; `checkpoint.before_s`
    before they are over the run saves and stops."""
    recover: Recover = key(Recover.trainer, scope=Scope.execution, unread=[_NO_TRAINER])
    """`trainer` starts the ranks again when one dies or hangs, from a copy of their state (`checkpoint.in_memory`) or
    the newest checkpoint and with the batches that came after it, while engines and rollout live on; `none` ends the
    run, which the same command resumes."""
    recover_at_most: int = bounded(5, at_least=1, limit=PATIENCE, scope=Scope.execution, unread=[_NOTHING_RECOVERS])
    """Times that `run.recover` starts the ranks again before the run stops."""
    recover_smaller_after_s: float | None = bounded(
        120.0, at_least=0, limit=YEAR, scope=Scope.execution, unread=[_NOTHING_RECOVERS, _NO_TRAINER]
    )
    """Seconds that lost ranks wait for a machine in the place of one that is gone, before they start with less data
    parallelism on those that are left; null: the run ends instead, at once."""
    generate_only: bool = key(False, unread=[SUPERVISED])
    """Generate and store `run.iterations` batches with the weights that training would start from, without a
    trainer."""
    bitwise: bool = key(False, unread=[SUPERVISED])
    """Log-probs of trainer and engines are equal bit for bit, and rollouts repeat, at the cost of speed; on the CPU."""
    smoke: bool = key(False, scope=Scope.this_run)
    """Instead of the run one training step, without engines, on made-up samples of the longest kind that the
    configuration allows: whether it fits, and what it takes of the memory."""
    in_process: bool = key(False, scope=Scope.this_run)
    """The trainer's only rank, the rollout service and the loop in one process, without Ray, so that `breakpoint()`
    works in them; engines stay processes of their own."""
    seed: int = bounded(0, at_least=0, limit=SEED)
    """Seed of everything that is drawn at random: data order, sampling, initial weights."""
    output: str | None = path_key(None, scope=Scope.this_run)
    """Folder of this run; null means `<run.root>/<recipe>/<date-time>`."""
    root: str = path_key("outputs", scope=Scope.this_run)
    """Folder of all runs."""
    scratch: str = path_key(".rlscale", scope=Scope.this_run)
    """Folder for what can be made again: models made by the project, caches, Ray's files."""
    progress: Progress = key(Progress.auto, scope=Scope.this_run)
    """`live` redraws the terminal, `plain` prints lines; `auto` asks whether it is a terminal."""
    report_samples: int = bounded(
        8, at_least=0, limit=Limit(10000, "the report would be too large to open"), scope=Scope.execution
    )
    """Samples shown in the report, of each evaluation and of each iteration that `run.report_samples_every` picks."""
    report_samples_every: int = bounded(10, at_least=0, limit=COUNT, scope=Scope.execution)
    """Iterations between those whose samples are shown, besides the first; 0 shows those of evaluations only."""
    groups: dict[str, str] = key(dict, scope=Scope.this_run)
    """The group options that this configuration was composed from; set by composing, never by hand."""
    environment: dict[str, str] = key(dict, scope=Scope.this_run)
    """The variables of the environment that values are taken from, by their keys; set by composing, never by hand."""


@dataclass
class WarmStartConfig(Section):
    """A supervised stage before reinforcement learning, run on its own when its result is missing."""

    recipe: str = path_key(MISSING, PathKind.recipe)
    """Recipe of the stage. It takes this run's model, cluster, parallel, seed and folders."""
