"""A run stops before its job ends: by the limit that was given, or by what Slurm says."""

from __future__ import annotations

import time

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError, UserError
from rlscale.run.job_end import stop_before_end

NOW = time.time()


def ending(*overrides: str, slurm: str | None = None) -> float | None:
    """Seconds from the start of a command until it stops; None where nothing stops it."""
    told = {} if slurm is None else {"SLURM_JOB_END_TIME": slurm}
    found = stop_before_end(compose(None, [*overrides]), NOW, told)
    return None if found is None else found[0] - NOW


def test_the_earlier_of_the_two_ends_counts_and_leaves_time_for_saving() -> None:
    assert ending() is None
    assert ending("run.time_limit_s=3600") == pytest.approx(3480)
    assert ending("checkpoint.before_s=600", slurm=str(int(NOW) + 7200)) == pytest.approx(6600, abs=1)
    assert ending("run.time_limit_s=3600", slurm=str(int(NOW) + 7200)) == pytest.approx(3480)
    assert ending("checkpoint.before_s=null", slurm=str(int(NOW) + 7200)) is None


@pytest.mark.parametrize(
    ("slurm", "line"),
    [
        (
            str(int(NOW) + 60),
            r"the job ends in \d+ s \(SLURM_JOB_END_TIME\), and checkpoint.before_s=120 is to be left",
        ),
        (str(int(NOW) - 60), "the job ends in 0 s"),
        ("soon", "SLURM_JOB_END_TIME=soon: is not a time"),
    ],
    ids=["soon over", "over", "no time"],  # the same in every process that collects them
)
def test_a_job_that_is_too_short_is_refused_before_anything_starts(slurm: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        ending(slurm=slurm)


NOBODY_RETURNS = ("run.recover=none", "run.in_process=true", "run.generate_only=true")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["run.time_limit_s=100"], "run.time_limit_s=100: the run would stop at once"),
        (["run.time_limit_s=100", "checkpoint.before_s=null"], "nothing stops the run before it"),
        (["checkpoint.best_by=loss"], "checkpoint.best_by=loss: nothing is kept for being the best"),
        (["checkpoint.best_is=lowest"], "checkpoint.best_is=lowest: nothing is kept for being the best"),
        *((["checkpoint.in_memory=true", key], f"copy of the trainer's state with {key}") for key in NOBODY_RETURNS),
        (
            [
                *("checkpoint.in_memory=true", "trainer.distributed_optimizer=true"),
                "optim.megatron.use_precision_aware_optimizer=true",
            ],
            "what optim.megatron.use_precision_aware_optimizer=true keeps is not copied",
        ),
    ],
)
def test_settings_of_saving_that_act_on_nothing_are_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        check(compose(None, overrides))
