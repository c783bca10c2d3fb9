"""`breakpoint()` in the processes of a run that have no terminal: a line that says how to get one."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from rlscale.config.errors import UserError

CHOSEN = "PYTHONBREAKPOINT"
"""Python's variable by which a user chooses a debugger."""
_RAYS = "ray.util"
"""Where Ray's debugger is, which Ray chooses for every process that it starts: it waits for `ray debug`."""


def refuse_breakpoints() -> None:
    """From now on a `breakpoint()` in this process, which has no terminal, raises what to do instead.

    Unless the user has chosen a debugger that needs none.
    """
    if os.environ.get(CHOSEN, _RAYS).startswith(_RAYS):
        sys.breakpointhook = _refuse


def _refuse(*_: Any, **__: Any) -> NoReturn:
    frame = sys._getframe(1)
    raise UserError(
        f"breakpoint() in {frame.f_code.co_filename}:{frame.f_lineno}: this process has no terminal; with "
        "run.in_process=true the debugger opens in the run's own (a reward needs reward.workers=0, too)"
    )
