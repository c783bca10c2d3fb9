"""Evaluation on engines of its own (`eval.engines`), which hold one weight version until it is measured.

Training goes on meanwhile. What was measured belongs to the iteration whose weights it was, however late it is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

from rlscale.config.schema import Config
from rlscale.config.schema.rollout_config import Concurrency, OnSync
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.sides.engine_side import RunningEngines
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.serve.supervisor import ROUTER

LOGS = "eval"
"""Folder below the run's logs for those of the evaluation's engines, router and service."""
_LOOK_EVERY_S = 1.0


def measuring_apart(config: Config) -> Config:
    """The configuration of the engines that evaluate and of the service that asks them.

    They are never asked anything while they take weights, so nothing has to be kept then.
    """
    rollout = replace(
        config.rollout,
        engines=config.eval.engines,
        engines_at_least=None,
        engines_at_most=None,
        engine_groups={},
        engine_urls=[],
        engine_key_file=None,
        concurrency=Concurrency.fixed,
        on_sync=OnSync.wait,
    )
    return replace(config, rollout=rollout, weights=replace(config.weights, max_engines_at_once=None))


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: of the weights `version` of an iteration, on the sets of these names."""

    when: str
    """before, during or after training."""
    iteration: int
    version: int
    names: tuple[str, ...]
    began: float
    """Seconds since 1970."""
    ended: float = nan
    """Seconds since 1970; when it was done, which is before anybody looked, or given up. NaN while it is under way."""
    results: dict[str, EvalResult] | None = None
    """By name. None where an engine died when the trainer did not have these weights any more: they are lost."""


class EvaluationEngines:
    """One evaluation at a time on a fleet of its own. Every call of the trainer comes from here or from the loop."""

    def __init__(self, side: RunningEngines, engines: Engines, rollout: Rollout) -> None:
        self._side, self._engines, self._rollout = side, engines, rollout
        self._answer: Any = None
        self._next_look = 0.0
        self.underway: Evaluated | None = None
        """What is being measured."""

    def begin(self, when: str, iteration: int, version: int, names: Sequence[str]) -> dict[str, float]:
        """Give the engines the trainer's weights, which are `version`, and let them answer; metrics of the sync.

        Only once what was under way is over.
        """
        if self.underway is not None:
            raise RuntimeError(f"the evaluation of iteration {self.underway.iteration} is still under way")
        metrics = self._side.update_weights(version)
        self.underway = Evaluated(when, iteration, version, tuple(names), time.time())
        self._answer = self._rollout.begin_evaluation(version, list(names))
        return {f"eval_{name}": value for name, value in metrics.items()}

    def look(self, version: int) -> Evaluated | None:
        """What is over, if something is: measured, or lost. Engines that are down are mended.

        `version`: of the trainer's weights, which a new engine gets. An evaluation of these goes on; one of others ends
        with the engine that had them. UserError where too much of the evaluation failed.
        """
        underway = self.underway
        if underway is not None and self._rollout.is_over(self._answer):
            self.underway = None
            results, ended = self._rollout.evaluated(self._answer)
            return replace(underway, ended=ended, results=results)
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        down = [one.name for one in self._engines.down()]
        if not down:
            return None
        lost = None
        if underway is not None and underway.version != version and down != [ROUTER]:  # which has no weights
            lost = replace(underway, ended=time.time())
            self._rollout.cancel(self._answer)
        self._side.mend(version, now=True)
        if lost is not None:  # only now: where mending ends the run, it is saved as under way
            self.underway = None
        return lost

    def wait(self, look: Callable[[], None]) -> None:
        """Until nothing is under way; `look` looks, and takes what is over."""
        self._rollout.until(lambda: self.underway is None, look, self._answer)
