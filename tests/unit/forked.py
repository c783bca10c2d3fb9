"""Code in a process forked from this one, which has imported torch: what import hooks need, without the wait."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from contextlib import redirect_stdout

import torch

LIMIT_S = 60


def printed_without(packages: tuple[str, ...], code: str) -> str:
    """What the code prints in a fork of this process that has forgotten these packages, and how they are found.

    They are imported anew, and found as Python finds them: without import hooks of this project. AssertionError with
    the traceback where the code raises, or where it has not ended after LIMIT_S.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's time limit may have a handler there
        signal.alarm(LIMIT_S)
        status = 1
        try:
            torch.set_num_threads(1)  # a fork has none of the threads that torch would wait for
            said = _run(packages, code)
            status = 0
        except BaseException:
            said = traceback.format_exc()
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(said)
            os._exit(status)
    os.close(writing)
    ended = None
    try:
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, ended = os.waitpid(child, 0)
    finally:
        if ended is None:  # this process was interrupted while it waited
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert ended == 0, said or f"it ended with status {ended}; {signal.SIGALRM:d} is that of {LIMIT_S} s"
    return said.strip()


def _run(packages: tuple[str, ...], code: str) -> str:
    for name in [*sys.modules]:
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("rlscale.")]
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, {"__name__": "__main__"})
    return output.getvalue()
