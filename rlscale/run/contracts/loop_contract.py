"""The contract of a loop: the order in which it calls the verbs of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from rlscale.config.compose import compose
from rlscale.run.training_session import TrainingSession
from rlscale.trainer.hook_contract.findings import Finding, Status, reported

_ITERATIONS = 3
_VERBS = (
    *("begin", "record", "sync", "go_on", "end"),
    *("trainer_takes_devices", "engines_take_devices", "pause_generation"),
)


class _Recorder:
    """Stands where a session does, and writes down which of its verbs are called."""

    def __init__(self) -> None:
        self.config = compose()
        self.told: list[str] = []
        self.trained: list[Any] = []
        self.handed_out: list[Any] = []

    def iterations(self) -> Iterator[int]:
        yield from range(_ITERATIONS)

    def collect(self) -> list[Any]:
        self.told.append("collect")
        self.handed_out.append([object()])
        return cast("list[Any]", self.handed_out[-1])

    def train(self, groups: Any) -> None:
        self.told.append("train")
        self.trained.append(groups)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in _VERBS:
            raise AttributeError(f"a session has no method {name} for a loop; it has {', '.join(_VERBS)}, iterations")
        return lambda: self.told.append(name)


def check_loop(build: Callable[[], Callable[[TrainingSession], None]]) -> list[Finding]:
    """One finding per check of a loop, run for three iterations of a session that only writes down what it is told."""
    with reported() as report:
        loop, session = report.call("new", build), _Recorder()
        report.call("three iterations", loop, cast(TrainingSession, session))
        told = session.told
        report.add("begin", "begin comes first, once", told[:1] == ["begin"] and told.count("begin") == 1, _few(told))
        report.add("end", "end comes last, once", told[-1:] == ["end"] and told.count("end") == 1, _few(told[::-1]))
        for verb in ("collect", "train", "record"):
            times = told.count(verb)
            text = f"{times} times in {_ITERATIONS} iterations"
            report.add(verb, "once in every iteration", times == _ITERATIONS, text)
        order = [verb for verb in told if verb in ("collect", "train", "record")]
        right = order == ["collect", "train", "record"] * _ITERATIONS
        report.add("order", "collect, then train, then record", right, _few(order))
        given = all(one is other for one, other in zip(session.trained, session.handed_out, strict=False))
        report.add("groups", "train is given what collect returned", given, "it is" if given else "something else")
        synced = told.count("sync") == _ITERATIONS
        text = f"{told.count('sync')} times; only supervised data can do without"
        report.add("sync", "the weights are sent in every iteration", synced, text, otherwise=Status.warned)
        resumed = told.count("go_on") >= _ITERATIONS - 1
        report.add("go_on", "generation goes on after every iteration but the last", resumed, _few(told))
    return report.findings


def _few(told: list[str]) -> str:
    return ", ".join(told[:6]) + (", ..." if len(told) > 6 else "") or "nothing"
