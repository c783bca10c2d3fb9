"""When the policy is measured, between two iterations: the rollout's engines do it.

`evaluations_beside_training.py` has the other way, on engines of their own. An evaluation is owed from the moment that
it is due until it is measured: a run that continues makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rlscale.config.derived.eval_sets import EvalSet, eval_sets
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.observe.summary import in_summary
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.disk.records import Records

Measure = Callable[[Sequence[str]], Iterable[tuple[str, EvalResult]]]
"""Measures the present weights on the sets of these names, with the rollout's engines."""


class Evaluations:
    """The evaluations of one run. `state` is the session's; what is owed and what was found before are kept there."""

    def __init__(self, config: EvalConfig, records: Records, state: Progress, measure: Measure) -> None:
        self._sets: dict[str, EvalSet] = eval_sets(config) if config.enabled else {}
        self._records, self._state, self._measure = records, state, measure
        self._after: dict[str, float] | None = None

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
        """Measure what is owed, before the engines get other weights; they generate for training beside it."""
        if self._state.eval_owed:
            self._now("before" if self._state.iteration == 0 else "during", list(self._state.eval_owed))
            self._state.eval_owed = {}

    def beside(self) -> dict[str, float]:
        """Begin with what is measured while the run goes on; metrics of the weight sync for it."""
        return {}

    def look(self, version: int) -> None:
        """Between the polls of a wait: write down what was measured beside. `version`: of the trainer's weights."""

    def after(self, look: Callable[[], None]) -> dict[str, float] | None:
        """Measure the final weights on every set; what was found, by metric. `look`: what to do while waiting."""
        return self._now("after", list(self._sets)) if self._sets else None

    def to_save(self) -> Progress:
        """The state as a checkpoint has it."""
        return self._state

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
