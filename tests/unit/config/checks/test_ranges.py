"""Numbers outside their bounds, or past all sense, are one line that says the bounds or why there is an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from math import inf
from typing import get_args, get_origin, get_type_hints

import pytest

from rlscale.config.composition.store import kinds
from rlscale.config.schema.about import Bounds, about
from rlscale.config.schema.section import Section

Problems = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algo.loss.eps_low=-0.1", "algo.loss.eps_low=-0.1: must be at least 0 and at most 1"),
        ("algo.loss.eps_high=-0.1", "algo.loss.eps_high=-0.1: must be at least 0"),
        ("algo.loss.dual_clip=1", "algo.loss.dual_clip=1.0: must be above 1"),
        ("rollout.top_p=0", "rollout.top_p=0.0: must be above 0 and at most 1"),
        ("rollout.top_k=0", "rollout.top_k=0: must be at least 1, or -1 to switch it off"),
        ("rollout.temperature=0", "rollout.temperature=0.0: must be above 0"),
        ("optim.lr=nan", "optim.lr=nan: must be a finite number, above 0"),
        ("optim.beta2=1", "optim.beta2=1.0: must be at least 0 and below 1"),
        ("parallel.tensor=0", "parallel.tensor=0: must be at least 1"),
        ("weights.canary_tokens=1", "weights.canary_tokens=1: must be at least 2"),
    ],
)
def test_a_value_out_of_range_says_the_range(problems: Problems, override: str, line: str) -> None:
    assert problems(override) == [line]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algo.advantage.gamma=1.1", "algo.advantage.gamma=1.1: must be at least 0 and at most 1"),
        ("algo.advantage.lam=-1", "algo.advantage.lam=-1.0: must be at least 0 and at most 1"),
        ("algo.loss.dual_clip=1", "algo.loss.dual_clip=1.0: must be above 1"),
        ("algo.loss.eps_low=1.5", "algo.loss.eps_low=1.5: must be at least 0 and at most 1"),
        ("algo.correction.opsm_delta=0", "algo.correction.opsm_delta=0.0: must be above 0"),
        ("algo.correction.rejection.veto=1", "algo.correction.rejection.veto=1.0: must be above 0 and below 1"),
        ("algo.overlong.cache_tokens=0", "algo.overlong.cache_tokens=0: must be at least 1"),
        ("algo.refill.max_dropped=0", "algo.refill.max_dropped=0.0: must be above 0"),
        ("critic.clip=0", "critic.clip=0.0: must be above 0"),
        ("algo.correction.upper=inf", "algo.correction.upper=inf: must be a finite number, above 0"),
        ("algo.overlong.penalty=nan", "algo.overlong.penalty=nan: must be a finite number, at least 0"),
        ("algo.advantage.gamma=nan", "algo.advantage.gamma=nan: must be a finite number, at least 0 and at most 1"),
        ("critic.warmup_iterations=-1", "critic.warmup_iterations=-1: must be at least 0"),
        ("trainer.max_skipped_steps=-1", "trainer.max_skipped_steps=-1: must be at least 0"),
    ],
)
def test_a_value_of_the_algorithm_out_of_range_says_the_range(problems: Problems, override: str, line: str) -> None:
    assert problems("algo=ppo", override) == [line]


def numbers() -> Iterator[tuple[str, Bounds | None]]:
    """Every key of the schema that holds a number or may hold one, with its bounds."""
    for kind in kinds(Section):
        hints = get_type_hints(kind)
        for item in fields(kind):
            hint = hints[item.name]
            if {int, float} & {hint, *get_args(hint)} and get_origin(hint) is not list:
                yield f"{kind.__name__}.{item.name}", about(item).bounds


def test_every_number_of_the_schema_has_bounds() -> None:
    found = dict(numbers())
    assert {"GaeAdvantage.lam", "SapoLoss.tau_negative", "OptimConfig.lr", "RejectionConfig.veto"} <= found.keys()
    assert [name for name, bounds in found.items() if bounds is None] == []


def test_every_number_without_an_end_of_its_own_has_a_limit() -> None:
    endless = {name for name, bounds in numbers() if bounds is not None and bounds.high == inf}
    limited = {name for name, bounds in numbers() if bounds is not None and bounds.limit is not None}
    evaluation = {
        f"{section}.{name}" for section in ("EvalConfig", "EvalSetConfig") for name in ("top_k", "success_reward")
    }
    assert endless - limited == {"RolloutConfig.top_k", "SourceConfig.top_k", *evaluation}
    assert limited - endless == set()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "optim.lr=1e30",
            "optim.lr=1e+30: is above 1: Adam moves every weight by up to the learning rate in each step",
        ),
        ("rollout.temperature=1e-30", "rollout.temperature=1e-30: is below 0.01: logits are divided by it"),
        (
            "rollout.groups_per_iteration=1000000000000",
            "rollout.groups_per_iteration=1e+12: is above 1000000: the samp",
        ),
        ("run.iterations=100000000000000000000000", "run.iterations=1e+23: is above 1000000000: no run gets that far"),
        ("reward.workers=10000", "reward.workers=10000: is above 1024: each is a process of its own"),
        ("cluster.call_timeout_s=1e12", "cluster.call_timeout_s=1e+12: is above 31536000: that is a year"),
        ("optim.eps=1e-300", "optim.eps=1e-300: is below 1e-30: it is added"),
        ("eval.data.seed=4294967296", "eval.data.seed=4294967296: is above 4294967295: seeds have 32 bits"),
        ("data.seed=-1", "data.seed=-1: must be at least 0"),
        ("eval.temperature=1e-9", "eval.temperature=1e-09: is below 0.01"),
        (f"run.iterations={'9' * 400}", "run.iterations=inf: must be a finite number, at least 1"),
    ],
)
def test_a_number_past_all_sense_says_why_there_is_an_end(problems: Problems, override: str, line: str) -> None:
    (found,) = problems(override)
    assert found.startswith(line)


def test_a_number_that_the_critic_takes_over_is_said_once(problems: Problems) -> None:
    assert problems("algo=ppo", "optim.lr=0") == ["optim.lr=0.0: must be above 0"]
    assert problems("algo=ppo", "critic.optim.lr=0") == ["critic.optim.lr=0.0: must be above 0"]
    assert len(problems("algo=ppo", "optim.lr=0", "critic.optim.lr=-1")) == 2
