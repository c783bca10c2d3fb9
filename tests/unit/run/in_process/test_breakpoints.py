"""`breakpoint()`: a debugger where the run has a terminal, a line elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from rlscale.config.errors import UserError
from rlscale.platform.no_terminal import refuse_breakpoints
from rlscale.run.in_process.breakpoints import Debugger, breakpoints
from rlscale.run.in_process.standing_clock import StandingClock


@pytest.fixture(autouse=True)
def _hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    before = sys.breakpointhook
    yield
    sys.breakpointhook = before


def test_a_process_without_a_terminal_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")  # what Ray chooses for its workers
    refuse_breakpoints()
    with pytest.raises(UserError, match=r"^breakpoint\(\) in .*test_breakpoints.py:\d+: .*run.in_process=true"):
        breakpoint()


def test_a_debugger_that_the_user_has_chosen_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    refuse_breakpoints()
    breakpoint()
    with breakpoints(StandingClock(), lambda: None):
        breakpoint()


def test_time_stands_while_commands_are_taken_and_quitting_asks_the_run_to_stop() -> None:
    asked: list[str] = []
    now, out = [0.0], io.StringIO()
    clock = StandingClock(lambda: now[0])
    debugger = Debugger(clock, lambda: asked.append("stop"))
    debugger.use_rawinput, debugger.stdout = False, out

    class Typed(io.StringIO):
        def readline(self, *_: object) -> str:
            now[0] += 100.0  # thinking
            return super().readline()

    debugger.stdin = Typed("p value + 1\nq\n")
    value = 41
    sys.breakpointhook = debugger.open
    traced = sys.gettrace()
    try:
        breakpoint()
        value += 0
    finally:
        sys.settrace(traced)
    assert "42" in out.getvalue()
    assert asked == ["stop"]
    assert (now[0], clock.seconds()) == (200.0, 0.0)
    breakpoint()  # counts no more
    assert value == 41
