"""Looking closely at single iterations."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.about import SUPERVISED, Limit, Scope, Unread, Where, bounded, key
from rlscale.config.schema.section import Section

_NO_ITERATION = Unread(
    lambda section: not section.iterations, ": no iteration is profiled; name some as profile.iterations"
)
_REPLAYED = Unread(Where.replayed, " is not read with rollout.replay, which generates nothing; set {key}={default}")


@dataclass
class ProfileConfig(Section):
    """Profiles of iterations, in the run's folder `profile/`."""

    iterations: list[int] = key(list, scope=Scope.this_run)
    """Iterations of whose training every rank writes a trace of torch's profiler, on GPUs also a memory snapshot; with
    any, the run's spans are written as one trace at its end. Such iterations take longer."""
    engine_steps: int = bounded(
        50,
        at_least=0,
        limit=Limit(10_000, "a trace of so many is gigabytes"),
        scope=Scope.this_run,
        unread=[SUPERVISED, _REPLAYED, _NO_ITERATION],
    )
    """Forward passes (prefill or decode) of each engine that a profiled iteration has a trace of; 0 for none."""
