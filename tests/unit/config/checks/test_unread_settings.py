"""A setting that nothing reads is refused, or said where a recipe may well keep it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose

Problems = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["run.stop_loss=0.2"], "run.stop_loss=0.2: the loss of grpo stays around 0"),
        (
            ["tracker.project=mine"],
            "tracker.project=mine is read by Weights & Biases and MLflow only; choose tracker=wandb or tracker=mlflow",
        ),
        (["tracker=tensorboard", "tracker.name=mine"], "tracker.name=mine is read by Weights & Biases and MLflow only"),
        (["tracker.offline=false"], "tracker.offline=false is read by Weights & Biases only"),
        (["tracker.kinds=[wandb,wandb]"], "tracker.kinds=[wandb,wandb]: names a tracker twice"),
        (["rollout.gpus_per_engine=2"], "rollout.gpus_per_engine=2 has no meaning on the CPU; set it to 1"),
        (
            ["cluster=node8", "rollout.engines=8", "rollout.threads_per_engine=2"],
            "rollout.threads_per_engine=2 is not read on GPUs; leave it out",
        ),
        (
            ["rollout.engine_urls=[http://127.0.0.1:1]", "rollout.threads_per_engine=null"],
            "rollout.threads_per_engine=null is not read with rollout.engine_urls: those engines have their threads",
        ),
        (
            ["profile.engine_steps=10"],
            "profile.engine_steps=10: no iteration is profiled; name some as profile.iterations",
        ),
        (
            ["profile.iterations=[1]", "profile.engine_steps=10", "algo=sft", "rollout.samples_per_group=1"],
            "profile.engine_steps=10: supervised training (algo/loss=sft) has no use for it",
        ),
        (
            ["profile.iterations=[1]", "profile.engine_steps=10", "rollout.replay=stored", "eval.enabled=false"],
            "profile.engine_steps=10 is not read with rollout.replay, which generates nothing",
        ),
        (["run.output="], "run.output is empty; name a folder, or null"),
        (["run.root="], "run.root is empty; name a folder"),
    ],
)
def test_what_nothing_reads_is_refused(problems: Problems, overrides: list[str], line: str) -> None:
    (found,) = problems(*overrides)
    assert found.startswith(line)


def test_what_a_whole_section_says_comes_before_what_its_key_says(problems: Problems) -> None:
    """The KL term is read by nobody here for two reasons; the first is the one to act on."""
    given = ["algo.kl.unbiased=true", "algo.correction.level=sequence"]
    supervised = problems("algo=sft", "rollout.samples_per_group=1", *given)
    assert supervised == [
        "algo.kl.unbiased=true: supervised training (algo/loss=sft) has no use for it; set algo.kl.unbiased=false",
        "algo.correction.level=sequence: supervised training (algo/loss=sft) has no use for it; set "
        "algo.correction.level=null",
    ]
    assert [line.partition(";")[0] for line in problems(*given)] == [
        "algo.kl.unbiased=true is never read, because algo.kl.placement=none",
        "algo.correction.level=sequence is never read with algo.correction.weight=none",
    ]


def test_on_gpus_limits_of_a_cpu_machine_are_refused(problems: Problems) -> None:
    found = problems("cluster=node8", "cluster.max_engines=8", "rollout.engines=8")
    assert "cluster.max_engines=8 is read on a CPU machine only; leave it out" in found


def test_supervised_training_has_no_samples_to_compare() -> None:
    config = compose("arithmetic_sft", ["weights.max_logprob_diff=0.1"])
    with pytest.raises(Exception, match=r"weights.max_logprob_diff=0.1: supervised training"):
        check(config)


@pytest.mark.parametrize("key", ["run.recover=none", "run.in_process=true"])
def test_a_limit_of_calls_that_hang_is_not_read_where_no_ranks_come_back(plain_recipe: str, key: str) -> None:
    note = f"cluster.hang_factor=9.0 is not read with {key}: no other ranks come in the place of those that hang"
    assert note in check(compose(plain_recipe, ["cluster.hang_factor=9", key]))
    assert not any("hang_factor" in one for one in check(compose(plain_recipe, [key])))


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["eval.enabled=false", "eval.every=2"], "eval.every=2 is not read with eval.enabled=false"),
        (
            ["run.iterations=3", "eval.every=3"],
            "eval.every=3 is not reached within run.iterations=3: evaluated before and after training only",
        ),
    ],
)
def test_an_evaluation_that_never_comes_is_said(plain_recipe: str, overrides: list[str], note: str) -> None:
    assert note in check(compose(plain_recipe, overrides))
    assert note not in check(compose(plain_recipe, ["run.iterations=3", "eval.every=2"]))


def test_the_default_recipe_runs_on_engines_that_somebody_else_started_and_says_which_options_they_do_not_get() -> None:
    notes = check(compose(None, ["rollout.engine_urls=['http://a:1']"]))
    assert any(
        note.startswith("rollout.sglang.disable_radix_cache is not read with rollout.engine_urls") for note in notes
    )


@pytest.mark.parametrize("mends", ["algo.correction.bypass=true", "algo/correction=tis", "algo.old_logprobs=behaviour"])
def test_staleness_that_the_loss_does_not_know_of_is_said(plain_recipe: str, mends: str) -> None:
    stale = ["cluster.placement=disaggregated", "rollout.max_staleness=1"]
    said = "rollout.max_staleness=1 without a correction"
    assert any(note.startswith(said) for note in check(compose(plain_recipe, stale)))
    assert not any(note.startswith(said) for note in check(compose(plain_recipe, [*stale, mends])))
    assert not any("without a correction" in note for note in check(compose(plain_recipe)))
