"""When a run measures its policy, on the rollout's engines or on engines apart, and what is owed after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.processes.actors import RolloutActor
from rlscale.run.sessions.evaluations import Evaluations
from rlscale.run.sessions.evaluations_beside_training import EvaluationsBesideTraining
from rlscale.run.sides.engine_records import Down
from rlscale.run.sides.evaluation_engines import EvaluationEngines, measuring_apart
from rlscale.serve.supervisor import ROUTER

SETS = (
    "data@eval.sets.small.data=arithmetic_held_out",
    "eval.every=2",
    "eval.sets.small.every=1",
    "run.iterations=9",
)


class Records:
    """Remembers what was written of which iteration."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int, str, Any]] = []
        self.notes: list[str] = []
        self.lane: list[tuple[float, float]] = []
        self.known: dict[int, dict[str, dict[str, float]]] = {}

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def beside(self, start: float, end: float) -> None:
        self.lane.append((start, end))

    def evaluated(self, iteration: int) -> dict[str, dict[str, float]]:
        return self.known.get(iteration, {})

    def evaluation(self, when: str, iteration: int, result: Any, one: Any, *, first: bool) -> dict[str, float]:
        self.written.append((when, iteration, one.name, result))
        self.known.setdefault(iteration, {})[one.name] = {"pass@1": 0.5}
        return {"pass@1" if first else f"{one.name}/pass@1": 0.5}


class Fleet:
    """Engines apart and the service that asks them. An evaluation is over once `done`."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.mended: list[int] = []
        self.cancelled: list[Any] = []
        self.missing: list[str] = []
        self.done = False
        self.done_at = 0.0

    def update_weights(self, version: int) -> dict[str, float]:
        self.sent.append(version)
        return {"sync_seconds": 0.5}

    def mend(self, version: int, *, now: bool) -> bool:
        self.mended.append(version)
        self.missing.clear()
        return now

    def down(self) -> list[Down]:
        return [Down(None, name, "died") for name in self.missing]

    def begin_evaluation(self, version: int, names: list[str]) -> tuple[int, list[str]]:
        self.done = False
        return version, names

    def is_over(self, evaluation: Any) -> bool:
        return self.done

    def evaluated(self, evaluation: tuple[int, list[str]]) -> tuple[dict[str, Any], float]:
        return dict.fromkeys(evaluation[1], f"weights {evaluation[0]}"), self.done_at

    def cancel(self, evaluation: Any) -> None:
        self.cancelled.append(evaluation)

    def until(self, condition: Any, meanwhile: Any, evaluation: Any) -> None:
        while not condition():
            self.done = True
            meanwhile()


class Run:
    """A loop of iterations, whose weight version is the iteration's number."""

    def __init__(
        self, state: Progress, fleet: Fleet | None, monkeypatch: pytest.MonkeyPatch, written: Records | None = None
    ) -> None:
        monkeypatch.setattr("rlscale.run.sides.evaluation_engines._LOOK_EVERY_S", 0.0)
        self.state, self.records = state, Records() if written is None else written
        any_fleet: Any = fleet
        parts: list[Any] = [compose(None, SETS).eval, self.records, state, self.measure]
        apart = EvaluationEngines(any_fleet, any_fleet, any_fleet)
        self.evaluations = Evaluations(*parts) if fleet is None else EvaluationsBesideTraining(apart, *parts)
        self.evaluations.begin(state)

    def measure(self, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        yield from ((name, f"weights {self.state.version}") for name in names)

    def go_on(self) -> dict[str, float]:
        self.evaluations.between()
        return self.evaluations.beside()

    def iterate(self) -> dict[str, float]:
        self.state.iteration += 1
        self.state.version += 1
        self.evaluations.iteration_done()
        return self.go_on()

    def look(self) -> None:
        self.evaluations.look(self.state.version)


def test_sets_are_measured_before_after_and_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(Progress(), None, monkeypatch)
    run.go_on()
    run.iterate()
    run.iterate()
    assert run.evaluations.after(run.look) == {"pass@1": 0.5, "small/pass@1": 0.5}
    assert [(when, i, name) for when, i, name, _ in run.records.written] == [
        ("before", 0, ""), ("before", 0, "small"), ("during", 1, "small"),
        ("during", 2, ""), ("during", 2, "small"), ("after", 2, ""), ("after", 2, "small"),
    ]  # fmt: skip
    assert run.state.eval_before == {"pass@1": 0.5, "small/pass@1": 0.5}


def test_apart_training_goes_on_and_the_result_is_of_the_iteration_whose_weights_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    assert run.go_on() == {"eval_sync_seconds": 0.5}
    run.iterate()
    run.iterate()
    assert (fleet.sent, run.records.written) == ([0], [])
    (note,) = run.records.notes
    assert note.startswith("the evaluation of iteration 0 is still under way at iteration 1")
    fleet.done, fleet.done_at = True, 1e10
    run.look()
    assert run.records.written == [("before", 0, "", "weights 0"), ("before", 0, "small", "weights 0")]
    ((began, ended),) = run.records.lane
    assert (began < time.time(), ended) == (True, 1e10)  # when it was done, not when somebody looked
    run.iterate()  # what was due after iterations 1 and 2 is measured now, with the weights of now
    fleet.done = True
    run.look()
    assert fleet.sent == [0, 3]
    assert run.records.written[2:] == [("during", 3, "small", "weights 3"), ("during", 3, "", "weights 3")]


def test_the_service_says_when_the_last_set_was_measured() -> None:
    async def measured(version: int, name: str = "") -> str:
        return f"{name} {version}"

    actor = RolloutActor.__new__(RolloutActor)
    actor._service = SimpleNamespace(evaluate=measured)
    began = time.time()
    results, ended = asyncio.run(actor.evaluate(3, ["", "small"]))
    assert results == {"": " 3", "small": "small 3"}
    assert began <= ended <= time.time()


def test_the_end_waits_for_what_is_under_way_and_measures_the_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    run.go_on()
    run.iterate()
    assert run.evaluations.after(run.look) == {"pass@1": 0.5, "small/pass@1": 0.5}
    assert [(when, found) for when, _, _, found in run.records.written] == [
        ("before", "weights 0"), ("before", "weights 0"), ("after", "weights 1"), ("after", "weights 1"),
    ]  # fmt: skip


@pytest.mark.parametrize("died", [["engine-0"], ["engine-0", ROUTER], [ROUTER]])
@pytest.mark.parametrize("trained", [True, False])
def test_an_evaluation_is_lost_with_an_engine_whose_weights_the_trainer_has_no_more(
    monkeypatch: pytest.MonkeyPatch, died: list[str], trained: bool
) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    run.go_on()
    if trained:
        run.iterate()
    fleet.missing = list(died)
    run.look()
    assert fleet.mended == [run.state.version]
    lost = trained and died != [ROUTER]
    assert len(fleet.cancelled) == len(run.records.lane) == lost
    assert all(began <= ended <= time.time() for began, ended in run.records.lane)
    if lost:  # what it should have measured is measured when the next evaluation begins
        assert "the weights of iteration 0, which are gone" in run.records.notes[-1]
        run.iterate()
    fleet.done = True
    run.look()
    found = "weights 2" if lost else "weights 0"
    assert [(name, weights) for _, _, name, weights in run.records.written if weights == found] == (
        [("small", found), ("", found)] if lost else [("", found), ("small", found)]
    )


def test_what_is_under_way_when_a_run_ends_is_owed_by_the_one_that_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    run.go_on()
    run.state.iteration += 1
    run.evaluations.iteration_done()
    saved = run.evaluations.to_save()
    assert saved.eval_owed == {"": 0, "small": 1}
    again = Run(saved, Fleet(), monkeypatch)
    (note,) = again.records.notes
    assert note.startswith("the evaluation before training was not finished when the run ended")
    again.go_on()
    assert again.evaluations.to_save().eval_owed == {"": 1, "small": 1}


def test_what_was_finished_between_a_checkpoint_and_the_end_of_a_run_is_known_to_the_one_that_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    run.go_on()
    run.iterate()
    saved = run.evaluations.to_save()
    assert (saved.eval_before, saved.eval_owed) == (None, {"": 0, "small": 1})
    fleet.done = True
    run.look()
    run.records.notes.clear()
    again = Run(saved, Fleet(), monkeypatch, run.records)
    assert saved.eval_before == {"pass@1": 0.5, "small/pass@1": 0.5}
    assert (saved.eval_owed, again.records.notes) == ({"small": 1}, [])


def test_a_measured_set_is_not_measured_again_where_a_run_ended_among_its_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records()
    records.known = {0: {"": {"pass@1": 0.25}}}
    run = Run(Progress(), None, monkeypatch, records)
    run.go_on()
    assert [(when, name) for when, _, name, _ in run.records.written] == [("before", "small")]
    assert run.state.eval_before == {"pass@1": 0.25, "small/pass@1": 0.5}


def test_what_an_engine_took_with_it_is_owed_since_the_later_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()
    run = Run(Progress(), fleet, monkeypatch)
    run.go_on()
    run.iterate()
    fleet.missing = ["engine-0"]
    run.look()
    assert run.evaluations.to_save().eval_owed == {"": 0, "small": 1}


def test_what_was_written_down_before_a_run_was_killed_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(Progress(iteration=2, eval_owed={"": 2, "small": 2}), None, monkeypatch)
    run.records.known = {2: {"": {"pass@1": 0.5}}}
    run.evaluations.begin(run.state)
    run.go_on()
    assert [(when, name) for when, _, name, _ in run.records.written] == [("during", "small")]


def test_how_many_engines_the_policy_may_have_is_no_bound_on_those_that_evaluate() -> None:
    words = ["eval.engines=1", "rollout.engines=2", "rollout.engines_at_least=2", "rollout.engines_at_most=8"]
    rollout = measuring_apart(compose(None, words)).rollout
    assert (rollout.engines, rollout.engines_at_least, rollout.engines_at_most) == (1, None, None)
