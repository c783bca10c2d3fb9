"""What is saved, how often, and how a run is continued."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Scope, bounded, key
from rlscale.config.schema.limits import COUNT
from rlscale.config.schema.section import Section


class Resume(Enum):
    """Whether a run continues an unfinished one of the same recipe and configuration."""

    auto = "auto"
    never = "never"


@dataclass
class CheckpointConfig(Section):
    """Checkpoints of a run."""

    every: int = bounded(50, at_least=0, limit=COUNT, scope=Scope.execution)
    """Iterations between checkpoints; 0 saves only at the end and on a signal."""
    asynchronous: bool = key(True, scope=Scope.execution)
    """Whether the run goes on while a checkpoint is written; every rank then holds a copy of it in host memory."""
    keep: int = bounded(2, at_least=1, limit=COUNT, scope=Scope.execution)
    """Checkpoints kept; older ones are removed after a newer one is whole."""
    resume: Resume = key(Resume.auto, scope=Scope.this_run)
    """`auto` continues the newest unfinished run of this recipe and values, in any layout; `never` starts afresh."""
