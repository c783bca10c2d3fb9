"""Expanding a sweep: the overrides of each of its runs, by the rules of Hydra's basic sweeper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep, ValueType
from hydra.errors import HydraException

from rlscale.config.composition.compose import searchpath_of
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.overrides import parse_one
from rlscale.config.errors import ConfigError, first_line

MOST_RUNS = 1000
"""Runs of one sweep, which come one after the other; all of them are checked before the first."""


def expand(overrides: Sequence[str], recipe: str | None = None) -> list[list[str]]:
    """Overrides of every run: the product of all `key=a,b`, `range(...)`, `choice(...)`, `glob(...)`; last key fastest.

    `glob` looks among the options that the recipe can choose from. Raises ConfigError for overrides that cannot be read
    or swept over, that name no value or one twice, and for more than MOST_RUNS runs.
    """
    problems: list[str] = []
    given = [parse_one(text, problems) for text in overrides]
    if problems:
        raise ConfigError(problems)
    read = [_listed(override, overrides, recipe) for override in given if override is not None]
    try:
        _check(read, overrides)
        (runs,) = BasicSweeper.split_arguments(read, max_batch_size=None)
    except HydraException as error:
        raise ConfigError(first_line(error)) from error
    return runs


def _listed(override: Override, overrides: Sequence[str], recipe: str | None) -> Override:
    """The override with a glob replaced by the options that it means; Hydra would count schemas among them."""
    pattern = override._value
    if not isinstance(pattern, Glob):
        return override
    options = pattern.filter(Groups.of(searchpath_of(recipe, overrides)).options(override.key_or_group))
    return replace(override, _value=ChoiceSweep(list=list(options)), value_type=ValueType.CHOICE_SWEEP)


def _check(parsed: Sequence[Override], texts: Sequence[str]) -> None:
    """ConfigError for values that make no sweep."""
    problems, runs = [], 1
    for override, text in zip(parsed, texts, strict=True):
        if override.is_interval_sweep():
            problems.append(f"{text}: an interval names no values; give them (a,b), or range(start,stop,step)")
        if not override.is_discrete_sweep():
            continue
        number = _size(override)
        runs *= max(number, 1)
        if number == 0:
            problems.append(f"{text}: names no value, so that there is nothing to run")
        elif number <= MOST_RUNS:
            counted = Counter(override.sweep_string_iterator())
            twice = [value for value, times in counted.items() if times > 1]
            problems += [f"{text}: names {value} twice, and both runs would be the same" for value in twice]
    if runs > MOST_RUNS:
        problems.append(f"a sweep of {runs:,} runs: at most {MOST_RUNS:,} can be started at once; sweep over less")
    if problems:
        raise ConfigError(problems)


def _size(override: Override) -> int:
    """How many values there are, without making them. Raises HydraException for a range that cannot be counted."""
    sweep = override._value
    if not isinstance(sweep, RangeSweep):
        return len(list(override.sweep_string_iterator()))
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or step == 0 or not all(map(math.isfinite, (start, stop, step))):
        raise HydraException(f"{override.input_line}: a range goes from one number to another, in steps that are not 0")
    return max(0, math.ceil((stop - start) / step))  # a float range ends after its rounding, so this may be one off


def differing(runs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each run's overrides, those that not every run has."""
    shared = set.intersection(*(set(run) for run in runs)) if runs else set()
    return [[text for text in run if text not in shared] for run in runs]
