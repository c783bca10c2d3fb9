"""`python -m rlscale warm`: fork servers that stay, for whoever starts one CPU run after the other."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.run.processes.forks import engine_fork_server, worker_fork_server, write_forks

USAGE = (
    "usage: python -m rlscale warm [file=FILE]\n"
    "  Imports SGLang, Megatron and the rollout once and keeps them ready until Ctrl-C. CPU runs on this machine with\n"
    "  cluster.warm=FILE start from them in seconds; what they compute is the same.\n"
    "  file  where the addresses are written; by default .rlscale/warm.json"
)


def warm(arguments: Sequence[str]) -> int:
    """Keep fork servers until a signal ends this command."""
    if help_is_shown(arguments, USAGE):
        return 0
    file = Path(".rlscale/warm.json")
    for word in arguments:
        key, equals, value = word.partition("=")
        if key != "file" or not equals or not value:
            raise UserError(f"warm does not know {word!r}; see python -m rlscale warm --help")
        file = Path(value)
    if sys.platform != "linux":
        raise UserError("warm forks processes, which works on Linux only")
    file = file.resolve()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # of a run that is forked from here it asks for a checkpoint
    try:
        file.parent.mkdir(0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="warm-", dir=file.parent))
    except OSError as error:
        raise UserError(f"file={file} cannot be written ({error.strerror})") from error
    try:
        with engine_fork_server(scratch) as engines, worker_fork_server(scratch) as workers:
            write_forks(replace(workers, engines=engines), file)
            say(f"add cluster.warm={file} to runs on this machine; Ctrl-C ends this")
            ended.wait()
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0
