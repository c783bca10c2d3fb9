"""One object says which models, passes and engines a configuration needs."""

from __future__ import annotations

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import Moment, Needs, Pass

SFT = ["algo=sft", "rollout.samples_per_group=1"]
BEHAVIOUR = ["algo.old_logprobs=behaviour", "rollout.max_staleness=1"]
RANKS, BATCH = Moment.ranks, Moment.batch


def needs(recipe: str, *overrides: str) -> Needs:
    return Needs.of(compose(recipe, overrides))


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        ([], []),
        (["algo.steps_per_iteration=2"], [Pass("old_logprobs", "policy", RANKS)]),
        (["algo.old_logprobs=always"], [Pass("old_logprobs", "policy", RANKS)]),
        (BEHAVIOUR, [Pass("old_logprobs", "behaviour", RANKS)]),
        (
            [*BEHAVIOUR, "algo.distil_coef=1"],
            [Pass("old_logprobs", "behaviour", BATCH), Pass("teacher_logprobs", "teacher", BATCH)],
        ),
        (["algo/kl=loss"], [Pass("ref_logprobs", "reference", RANKS)]),
        (
            ["algo=ppo", "algo/kl=reward", "algo.kl.coef=0.1", "algo.epochs_per_iteration=2"],
            [
                Pass("old_logprobs", "policy", BATCH),
                Pass("ref_logprobs", "reference", BATCH),
                Pass("values", "critic", BATCH),
            ],
        ),
        (["algo=ppo", "algo/kl=none", "algo.correction.bypass=true"], [Pass("values", "critic", BATCH)]),
        ([*SFT, "algo.epochs_per_iteration=2"], []),
    ],
    ids=str,
)
def test_each_pass_is_made_once_by_its_model_at_its_moment(
    plain_recipe: str, overrides: list[str], passes: list[Pass]
) -> None:
    assert list(needs(plain_recipe, *overrides).passes) == passes


def test_only_what_generates_needs_engines_and_rewards(plain_recipe: str) -> None:
    for overrides, generates in (([], True), (SFT, True), ([*SFT, "eval.enabled=false"], False)):
        found = needs(plain_recipe, *overrides)
        assert (found.engines, found.rewards) == (generates, generates)


def test_supervised_training_is_at_temperature_1_and_keeps_no_versions(plain_recipe: str) -> None:
    sampled = needs(plain_recipe, *BEHAVIOUR, "rollout.temperature=0.7")
    assert (sampled.temperature, sampled.kept_versions) == (0.7, 1)
    supervised = needs(plain_recipe, *BEHAVIOUR, *SFT, "rollout.temperature=0.7")
    assert (supervised.temperature, supervised.kept_versions) == (1.0, 0)


def test_models_are_named_policy_first(plain_recipe: str) -> None:
    assert needs(plain_recipe).models == ("policy",)
    every = needs(plain_recipe, "algo=ppo", "algo/kl=loss", "algo.distil_coef=1")
    assert every.models == ("policy", "critic", "reference", "teacher")
