"""What a loop asks of a rollout service that hangs, and a user who wants the run to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.stop_signal import StopRequested, StopSignal
from rlscale.run.sides.group_source import Rollout
from tests.unit.run.processes.played_calls import played_calls

TOKENS = np.array([5, 9], np.int32)
WHILE_IT_GOES_ON: dict[str, Callable[[Rollout], Any]] = {
    "resume": lambda rollout: rollout.resume(3),
    "stats": lambda rollout: rollout.stats(),
    "engines_are": lambda rollout: rollout.engines_are(2),
    "redirect": lambda rollout: rollout.redirect("http://127.0.0.1:1"),
    "give_up": lambda rollout: rollout.give_up(["http://127.0.0.1:1"]),
    "leave": lambda rollout: rollout.leave(["http://127.0.0.1:1"]),
    "model_loads": lambda rollout: rollout.model_loads(),
    "score": lambda rollout: rollout.score("http://127.0.0.1:1", "", TOKENS),
    "handed_over": lambda rollout: rollout.handed_over("http://127.0.0.1:1", "http://127.0.0.1:2", "", TOKENS, 1),
}


class Service:
    """A rollout whose every call takes `takes_s`; a user asks for the end after `asked_s` seconds of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop, self.now, self.takes_s, self.asked_s = StopSignal(), [0.0], 1e9, 2.0
        self.calls: Calls = played_calls(self.stop, self.now, folder, monkeypatch)
        wait = self.calls.host.wait

        def waits(refs: list[float], seconds: float) -> Any:
            if self.now[0] >= self.asked_s:
                self.stop.ask()
            return wait(refs, seconds)

        monkeypatch.setattr(self.calls.host, "wait", waits)
        self.rollout = Rollout.__new__(Rollout)
        self.rollout._calls = self.calls
        method = SimpleNamespace(remote=lambda *_: self.now[0] + self.takes_s)
        names = ("call", "model_loads", "score", "handed_over", "is_there")
        self.rollout._actor = SimpleNamespace(**dict.fromkeys(names, method))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(tmp_path, monkeypatch)


@pytest.mark.parametrize("asks", WHILE_IT_GOES_ON.values(), ids=WHILE_IT_GOES_ON)
def test_a_service_that_hangs_while_the_run_goes_on_holds_up_nobody_who_wants_it_to_end(
    service: Service, asks: Callable[[Rollout], Any]
) -> None:
    with pytest.raises(StopRequested):
        asks(service.rollout)
    assert service.now[0] < 5


def test_a_state_to_save_is_waited_for_as_long_as_it_may_take_and_not_as_long_as_it_hangs(service: Service) -> None:
    service.takes_s = 7.0
    assert service.rollout.state_dict(trained=True) == 7.0
    service.takes_s = 1e9
    with pytest.raises(ProcessLost, match=r"rollout\.state_dict did not finish within 21 s"):
        service.rollout.state_dict(trained=True)


def test_whether_it_is_there_is_asked_in_the_time_that_is_left(service: Service) -> None:
    service.takes_s = 7.0
    with service.calls.shortened(8.0, "the run is to end"):
        service.rollout.is_there()
        service.takes_s = 20.0
        with pytest.raises(ProcessLost, match=r"rollout\.is_there did not finish within 8 s \(the run is to end\)"):
            service.rollout.is_there()
