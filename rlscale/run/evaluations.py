"""When the policy is measured: between two iterations by the rollout's engines, or beside training by engines apart.

An evaluation is owed from the moment that it is due until it is measured: a run that continues makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rlscale.config.eval_sets import EvalSet, eval_sets
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.apart_evaluation import ApartEvaluation, Evaluated
from rlscale.run.checkpoint import Progress
from rlscale.run.records import Records, in_summary

Measure = Callable[[Sequence[str]], Iterable[tuple[str, EvalResult]]]
"""Measures the present weights on the sets of these names, with the rollout's engines."""


class Evaluations:
    """The evaluations of one run. `state` is the session's; what is owed and what was found before are kept there."""

    def __init__(
        self, config: EvalConfig, records: Records, state: Progress, measure: Measure, apart: ApartEvaluation | None
    ) -> None:
        self._sets: dict[str, EvalSet] = eval_sets(config) if config.enabled else {}
        self._records, self._state, self._measure, self._apart = records, state, measure, apart
        self._after: dict[str, float] | None = None
        self._said_late = -1

    def begin(self, state: Progress) -> None:
        """The run begins at `state`, or continues there. What was written down before it was ended is not owed."""
        self._state = state
        if state.iteration == 0 and state.eval_before is None:
            state.eval_owed = dict.fromkeys(self._sets, 0)
        state.eval_owed = {
            name: due for name, due in state.eval_owed.items() if name not in self._records.evaluated(due)
        }
        if self._sets and state.eval_before is None:
            self._find_before()

    def _find_before(self) -> None:
        """Take the accuracies before training from what is written down, or say that nobody will know them."""
        state, (first, *_) = self._state, self._sets
        written = self._records.evaluated(0)
        if first in written:
            state.eval_before = {}
            for name, accuracies in written.items():
                state.eval_before |= in_summary(name, accuracies, first=name == first)
        elif state.iteration:
            self._records.note(
                "the evaluation before training was not finished when the run ended, and the weights of iteration 0 "
                "are gone: there is no accuracy before training to compare with"
            )

    def iteration_done(self) -> None:
        """What is due after this iteration is owed from now on."""
        done = self._state.iteration
        self._owe([name for name, one in self._sets.items() if one.config.every and done % one.config.every == 0], done)

    def between(self) -> None:
        """Measure what is owed, before the rollout's engines go on."""
        if self._apart is None and self._state.eval_owed:
            self._now("before" if self._state.iteration == 0 else "during", list(self._state.eval_owed))
            self._state.eval_owed = {}

    def beside(self) -> dict[str, float]:
        """Let the engines apart begin with what is owed, if they are free; metrics of their weight sync.

        What they are late for is measured once they are, with the weights of that iteration.
        """
        state = self._state
        if self._apart is None or not state.eval_owed:
            return {}
        if (other := self._apart.underway) is not None:
            if self._said_late != other.iteration:
                self._said_late = other.iteration
                self._records.note(
                    f"the evaluation of iteration {other.iteration} is still under way at iteration {state.iteration}, "
                    "whose own begins after it; more eval.engines are faster, a larger eval.every asks less of them"
                )
            return {}
        with self._records.span("evaluate"):
            when = "before" if state.iteration == 0 else "during"
            metrics = self._apart.begin(when, state.iteration, state.version, list(state.eval_owed))
        state.eval_owed = {}
        return metrics

    def look(self, version: int) -> None:
        """Between the polls of a wait: write down what was measured apart. `version`: of the trainer's weights."""
        found = self._apart.look(version) if self._apart is not None else None
        if found is None:
            return
        self._records.beside(found.began, found.ended)
        if found.results is not None:
            self._write(found.when, found.iteration, found.results.items())
            return
        self._records.note(
            f"an engine died while it measured the weights of iteration {found.iteration}, which are gone; "
            "those of the next evaluation are measured instead"
        )
        self._owe(found.names, found.iteration)

    def after(self, look: Callable[[], None]) -> dict[str, float] | None:
        """Measure the final weights on every set, once what is under way is over; what was found, by metric."""
        if not self._sets:
            return None
        if self._apart is None:
            return self._now("after", list(self._sets))
        with self._records.span("evaluate"):
            self._apart.wait(look)
            self._state.eval_owed = {}
            self._apart.begin("after", self._state.iteration, self._state.version, list(self._sets))
            self._apart.wait(look)
        return self._after

    def to_save(self) -> Progress:
        """The state as a checkpoint has it: what is under way is owed, because nobody waits for it after a restart."""
        underway: Evaluated | None = self._apart.underway if self._apart is not None else None
        begun = dict.fromkeys(underway.names, underway.iteration) if underway is not None else {}
        return replace(self._state, eval_owed=begun | self._state.eval_owed)

    def _owe(self, names: Sequence[str], iteration: int) -> None:
        """Owe the sets of these names since an iteration, or since the later one for which they are owed already."""
        owed = self._state.eval_owed
        self._state.eval_owed = owed | {name: max(iteration, owed.get(name, iteration)) for name in names}

    def _now(self, when: str, names: Sequence[str]) -> dict[str, float]:
        return self._write(when, self._state.iteration, self._measure(names))

    def _write(self, when: str, iteration: int, results: Iterable[tuple[str, EvalResult]]) -> dict[str, float]:
        """Write each result down; all that was found, by metric."""
        found: dict[str, float] = {}
        first = next(iter(self._sets))
        for name, result in results:
            found |= self._records.evaluation(when, iteration, result, self._sets[name], first=name == first)
        if when == "before":
            self._state.eval_before = (self._state.eval_before or {}) | found
        elif when == "after":
            self._after = found
        return found
