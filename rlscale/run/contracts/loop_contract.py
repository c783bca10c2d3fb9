"""The contract of a loop: the order in which it calls the verbs of a session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

from rlscale.config.composition.compose import compose
from rlscale.run.verbs import Loop, Verbs
from rlscale.trainer.hook_contract.findings import Finding, Status, reported

_ITERATIONS = 3
_VERBS = tuple(name for name, _ in inspect.getmembers(Verbs, inspect.isfunction) if not name.startswith("_"))

_PAUSES = ("pause_generation", "trainer_takes_devices")
"""After these no engine generates."""


class _Recorder:
    """Stands where a run does, and writes down which of its verbs are called."""

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
            raise AttributeError(f"a run has no verb {name} for its loop; it has {', '.join(_VERBS)}")
        return lambda: self.told.append(name)


def check_loop(build: Callable[[], Loop]) -> list[Finding]:
    """One finding per check of a loop, run for three iterations of a run that only writes down what it is told."""
    with reported() as report:
        loop, session = report.call("new", build), _Recorder()
        report.call("three iterations", loop, cast(Verbs, session))
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
        running = _generating_at(told, "sync")
        text = ", ".join(running) or "never"
        report.add("pause", "no weights are sent while engines generate", not running, text)
        resumed = told.count("go_on") >= _ITERATIONS - 1
        report.add("go_on", "generation goes on after every iteration but the last", resumed, _few(told))
    return report.findings


def _generating_at(told: list[str], verb: str) -> list[str]:
    """Where a verb comes although nothing has stopped generation since it began."""
    found, generates = [], False
    for number, name in enumerate(told):
        generates = name in ("begin", "go_on") or (generates and name not in _PAUSES)
        if name == verb and generates:
            found.append(f"{name} after {told[number - 1]}")
    return found[:3]


def _few(told: list[str]) -> str:
    return ", ".join(told[:6]) + (", ..." if len(told) > 6 else "") or "nothing"
