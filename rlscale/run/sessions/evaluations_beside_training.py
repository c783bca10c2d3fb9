"""When engines of their own measure the policy: beside training, one evaluation after another (`eval.engines`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rlscale.config.schema.eval_config import EvalConfig
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.disk.records import Records
from rlscale.run.sessions.evaluations import Evaluations, Measure
from rlscale.run.sides.evaluation_engines import EvaluationEngines


class EvaluationsBesideTraining(Evaluations):
    """The evaluations of a run whose `apart` measures; everything else is as `Evaluations` takes it."""

    def __init__(
        self, apart: EvaluationEngines, config: EvalConfig, records: Records, state: Progress, measure: Measure
    ) -> None:
        super().__init__(config, records, state, measure)
        self._apart = apart
        self._said_late = -1

    def between(self) -> None:
        """The rollout's engines measure nothing."""

    def beside(self) -> dict[str, float]:
        """Let the engines apart begin with what is owed, if they are free; metrics of their weight sync.

        What they are late for is measured once they are, with the weights of that iteration.
        """
        state = self._state
        if not state.eval_owed:
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
        found = self._apart.look(version)
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
        with self._records.span("evaluate"):
            self._apart.wait(look)
            self._state.eval_owed = {}
            self._apart.begin("after", self._state.iteration, self._state.version, list(self._sets))
            self._apart.wait(look)
        return self._after

    def to_save(self) -> Progress:
        """The state as a checkpoint has it: what is under way is owed, because nobody waits for it after a restart."""
        underway = self._apart.underway
        begun = dict.fromkeys(underway.names, underway.iteration) if underway is not None else {}
        return replace(self._state, eval_owed=begun | self._state.eval_owed)
