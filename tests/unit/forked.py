"""Code in a process forked from this one, which has imported torch: what import hooks need, without the wait."""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import redirect_stdout


def printed_without(packages: tuple[str, ...], code: str) -> str:
    """What the code prints in a fork of this process that has forgotten these packages, and how they are found.

    They are imported anew, and found as Python finds them: without import hooks of this project. AssertionError with
    the traceback where the code raises.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            said = _run(packages, code)
            status = 0
        except BaseException:
            said = traceback.format_exc()
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(said)
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, said
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
