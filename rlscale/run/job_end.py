"""When the job that a command runs in ends, and the run with it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rlscale.config.errors import UserError
from rlscale.config.schema import Config

_SLURM = "SLURM_JOB_END_TIME"
"""Slurm's variable for the end that a job has when it starts, in seconds since 1970."""


def stop_before_end(config: Config, started: float, environment: Mapping[str, str]) -> tuple[float, str] | None:
    """When a command that started then must stop so that it can save, in seconds since 1970, and what it says then.

    None where its job has no end that is known, or with `checkpoint.before_s=null`. UserError if too little is left.
    """
    before_s = config.checkpoint.before_s
    if before_s is None:
        return None
    ends = {}
    if config.run.time_limit_s is not None:
        ends["run.time_limit_s"] = started + config.run.time_limit_s
    if (told := environment.get(_SLURM)) is not None:
        ends[_SLURM] = _moment(told)
    if not ends:
        return None
    name = min(ends, key=lambda one: ends[one])
    left = ends[name] - time.time()
    if left <= before_s:
        raise UserError(
            f"the job ends in {max(left, 0):.0f} s ({name}), and checkpoint.before_s={before_s:g} is to be left for "
            "saving; lower it, or ask for a longer job"
        )
    return ends[name] - before_s, f"the job ends in {before_s:g} s ({name}): the run saves and stops"


def _moment(told: str) -> float:
    try:
        return float(int(told))
    except ValueError:
        raise UserError(f"{_SLURM}={told}: is not a time; unset it, or set checkpoint.before_s=null") from None
