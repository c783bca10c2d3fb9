"""A run's actors in the process of its driver, for the length of one command."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rlscale.platform.stacks import tell_stacks
from rlscale.run.in_process.actors_here import ActorsHere
from rlscale.run.in_process.breakpoints import breakpoints
from rlscale.run.in_process.standing_clock import StandingClock
from rlscale.run.processes.stop_signal import StopSignal


@contextmanager
def in_this_process(stop: StopSignal) -> Iterator[ActorsHere]:
    """A host of actors; in the block `breakpoint()` opens a debugger, and to quit that one asks the run to stop."""
    tell_stacks()
    clock = StandingClock()
    warnings.filterwarnings("ignore", module="megatron")  # what is not installed that would be faster on a GPU
    with breakpoints(clock, stop.ask), ActorsHere(clock) as here:
        yield here
