"""What every actor of a run has: a log of its own, stacks that it can be asked for, and a place."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from pathlib import Path

from setproctitle import setproctitle

from rlscale.config.own_files import open_to_append
from rlscale.platform.allocator import keep_allocator
from rlscale.platform.no_terminal import refuse_breakpoints
from rlscale.platform.stacks import tell_stacks
from rlscale.run.processes.error_log import log_errors
from rlscale.run.processes.printing import print_anything
from rlscale.serve.forked_python import NOT_FORKED


def shown_as(actor: type, log: Path) -> str:
    """How `ps` shows the process of an actor with that log."""
    return f"ray::{actor.__name__} {log.stem}"


def _log_to(path: str, actor: object) -> None:
    """Send everything that this process prints, from Python or from C, to a file of the run.

    What is logged as an error, and a crash, is written down as well. `ps` shows the process by its actor and log.
    """
    setproctitle(shown_as(type(actor), Path(path)))  # Ray itself cannot, where the process is forked
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = open_to_append(Path(path))
    print_anything()
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    faulthandler.enable()  # a crash outside Python then leaves its stack in that file
    tell_stacks()
    logging.getLogger("rlscale").addHandler(logging.StreamHandler())  # Ray's own handlers show nothing of it
    log_errors(Path(path).parent, Path(path).stem)
    if (reason := os.environ.pop(NOT_FORKED, None)) is not None:
        print(f"not forked, so it imports everything itself: {reason}", file=sys.stderr, flush=True)


class Actor:
    """What every actor of a run can be asked."""

    def _logs_to(self, path: str) -> None:
        """Take this process for the actor's own."""
        keep_allocator()
        _log_to(path, self)
        refuse_breakpoints()

    def whereabouts(self) -> tuple[str, str, int]:
        """Ids of the actor and of its machine, as Ray knows them, and its process id."""
        import ray

        context = ray.get_runtime_context()
        return str(context.get_actor_id()), str(context.get_node_id()), os.getpid()
