"""Expanding a sweep: the overrides of each of its runs, by the rules of Hydra's basic sweeper."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from rlscale.config.errors import ConfigError
from rlscale.config.locations import conf_dir
from rlscale.config.overrides import parse_one


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of every run: the product of all `key=a,b`, `range(...)`, `choice(...)`, `glob(...)`; last key fastest.

    Raises ConfigError for overrides that cannot be read or swept over.
    """
    problems: list[str] = []
    for text in overrides:
        parse_one(text, problems)
    if problems:
        raise ConfigError(problems)
    with hydra.initialize_config_dir(str(conf_dir()), job_name="rlscale", version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        try:
            (runs,) = BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), max_batch_size=None)
        except HydraException as error:
            raise ConfigError(str(error).splitlines()[0]) from error
    return runs


def differing(runs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each run's overrides, those that not every run has."""
    shared = set.intersection(*(set(run) for run in runs)) if runs else set()
    return [[text for text in run if text not in shared] for run in runs]
