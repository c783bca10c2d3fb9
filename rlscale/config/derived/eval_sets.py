"""The evaluation sets of a configuration: `eval.data`, and those of `eval.sets`, which are like it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields

from rlscale.config.errors import UserError
from rlscale.config.schema.eval_config import EvalConfig, EvalSetConfig

_OWN = ("data", "reward")
"""Keys of a set that are not keys of `eval` with another value."""


@dataclass(frozen=True)
class EvalSet:
    """One evaluation set."""

    name: str
    """"" for `eval.data`."""
    section: str
    """Where its keys are: `eval`, or `eval.sets.NAME`."""
    config: EvalConfig
    """What it is measured with; its `data` is the set's."""
    judge: str
    """The source by whose reward its answers are scored (see `rlscale.envs.rewards_by_source`); "" is the run's."""

    @property
    def data_key(self) -> str:
        """The key of its data."""
        return f"{self.section}.data"


def eval_sets(evaluation: EvalConfig) -> dict[str, EvalSet]:
    """Every set by its name; the first is the one that summary and progress show. UserError if there is none."""
    found = {} if evaluation.data is None else {"": EvalSet("", "eval", evaluation, "")}
    for name, one in evaluation.sets.items():
        judge = own_judge(name) if one.reward is not None else name
        found[name] = EvalSet(name, f"eval.sets.{name}", _filled(evaluation, one), judge)
    if not found:
        raise UserError("eval.data is empty; choose a source with data@eval.data=..., or set eval.enabled=false")
    return found


def own_judge(name: str) -> str:
    """What stands for a source in the place of a set that has a reward of its own."""
    return f"eval/{name}"


def _filled(evaluation: EvalConfig, one: EvalSetConfig) -> EvalConfig:
    said = {item.name: getattr(one, item.name) for item in fields(one) if item.name not in _OWN}
    given = {name: value for name, value in said.items() if value is not None}
    return dataclasses.replace(evaluation, data=one.data, sets={}, **given)
