"""Code in a process forked from this one, which has imported torch: what import hooks need, without the wait."""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile

import torch

LIMIT_S = 60


def printed_without(packages: tuple[str, ...], code: str) -> str:
    """What the code prints in a fork of this process that has forgotten these packages, and how they are found.

    They are imported anew, and found as Python finds them: without import hooks of this project. AssertionError with
    the traceback where the code raises, or where it has not ended after LIMIT_S.
    """
    with TemporaryFile("w+") as said:

        def told() -> int:
            try:
                said.write(_run(packages, code))
            except BaseException:
                said.write(traceback.format_exc())
                return 1
            finally:
                said.flush()
            return 0

        ended = _forked(told)
        said.seek(0)
        text = said.read()
    assert ended == 0, text or f"it ended with {ended}; -{signal.SIGALRM:d} is that of {LIMIT_S} s"
    return text.strip()


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m rlscale` with these words in a folder: in a fork of this process, which has imported most of it."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:

        def ran() -> int:
            os.chdir(folder)
            for number, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out.fileno()), (2, err.fileno())):
                os.dup2(descriptor, number)
            sys.path.insert(0, str(folder))
            sys.argv[1:] = words
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    runpy.run_module("rlscale", run_name="__main__", alter_sys=True)
                except SystemExit as ending:
                    return int(ending.code or 0)
                except BaseException:
                    traceback.print_exc()
                    return 1
                finally:
                    out.flush()
                    err.flush()
            return 0

        code = _forked(ran)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def _forked(run: Callable[[], int]) -> int:
    """The exit code that `run` gives in a fork, as `subprocess` counts: below 0 the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's time limit may have a handler there
            signal.alarm(LIMIT_S)
            torch.set_num_threads(1)  # a fork has none of the threads that torch would wait for
            status = run()
        finally:
            os._exit(status)
    ended = None
    try:
        _, ended = os.waitpid(child, 0)
    finally:
        if ended is None:  # this process was interrupted while it waited
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended)


def _run(packages: tuple[str, ...], code: str) -> str:
    for name in [*sys.modules]:
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("rlscale.")]
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, {"__name__": "__main__"})
    return output.getvalue()
