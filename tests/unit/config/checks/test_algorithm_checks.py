"""A setting of the algorithm that cannot act is one line that says why and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose

Problems = Callable[..., list[str]]

BYPASS = "algo.correction.bypass=true"
TARGET = "._target_=mine.fn"
CORRECTION = "algo.correction"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # KL
        (["algo.kl.coef=0.1"], "algo.kl.coef=0.1 is never read, because algo.kl.placement=none; choose algo/kl=loss"),
        (["algo.kl.unbiased=true"], "algo.kl.unbiased=true is never read, because algo.kl.placement=none"),
        (["algo.kl.estimator=k2"], "algo.kl.estimator=k2 is never read, because algo.kl.placement=none"),
        (
            ["algo/kl=loss", "algo.kl.coef=0"],
            "algo.kl.placement=loss with algo.kl.coef=0 has no effect; raise it or use algo/kl=none",
        ),
        (["algo=ppo", "algo.kl.coef=0"], "algo.kl.placement=reward with algo.kl.coef=0 has no effect"),
        (["algo/kl=loss", "algo.kl.estimator=k1"], "k1 as a loss has zero expected gradient; use k2, k3 or low_var_kl"),
        (
            ["algo/kl=reward"],
            "algo.kl.placement=reward with algo.kl.coef=0.001: algo/advantage=broadcast never reads a KL term in the "
            "reward; use algo/kl=loss, or algo/advantage=returns, baseline or gae",
        ),
        (["algo=opd", "teacher.path=a/b", "algo/kl=reward"], "algo/advantage=none never reads a KL term in the reward"),
        (
            ["algo/advantage=custom", f"algo.advantage.function{TARGET}", "algo/kl=reward"],
            "algo/advantage=custom gets no KL term; use algo/kl=none, ask for algo.advantage.reads=[ref_logprobs]",
        ),
        (
            ["algo=ppo", "algo.kl.unbiased=true"],
            "algo.kl.unbiased=true is never read with algo.kl.placement=reward, because a reward has no gradient",
        ),
        (
            ["algo/kl=loss", "algo.kl.estimator=k3", "algo.kl.placement=none", "algo.kl.coef=0"],
            "algo.kl.estimator=k3 is never read, because algo.kl.placement=none",
        ),
        # turns with a reward each
        (["algo.turn_discount=0.5"], "algo.turn_discount=0.5: env=single_turn has one turn only; set it to null"),
        (["algo.turn_discount=1.5"], "algo.turn_discount=1.5: must be at least 0 and at most 1"),
        (
            ["algo.turn_discount=0.5", "agent.command=python"],
            "algo.turn_discount=0.5: an agent has one reward for all of its turns; set it to null",
        ),
        (
            ["algo=rloo", "algo.turn_discount=0.5", "env=calculator"],
            "algo.turn_discount=0.5: algo.score.kind=leave_one_out cannot score single turns; choose "
            "algo/score=group_mean, group_mean_std or raw",
        ),
        (
            ["algo=ppo", "algo/score=group_mean", "algo.turn_discount=0.5", "env=calculator"],
            "algo.turn_discount=0.5: algo/advantage=gae adds up the rewards of turns, and algo.score.kind=group_mean "
            "is of whole samples; choose algo/score=raw",
        ),
        (
            ["algo=dapo", "algo.turn_discount=1", "env=calculator"],
            "algo.turn_discount=1: algo.refill.drop_equal=true drops groups by the sums of their rewards",
        ),
        (
            ["rollout/filter=varied_rewards", "algo.turn_discount=1", "env=calculator"],
            "algo.turn_discount=1: rollout/filter=varied_rewards drops groups by the sums of their rewards, where the "
            "turns still differ; choose rollout/filter=all",
        ),
        (
            ["algo=opd", "teacher.path=a/b", "algo.turn_discount=1", "env=calculator"],
            "algo.turn_discount=1: algo/advantage=none never reads a reward; set it to null",
        ),
        (
            ["algo/advantage=custom", f"algo.advantage.function{TARGET}", "algo.turn_discount=0.5", "env=calculator"],
            "algo.turn_discount=0.5: your function of algo/advantage=custom finds each turn's reward in the column "
            "turn_reward, and discounts it itself; set it to 1",
        ),
        # score, advantage, whitening
        *(
            (
                [f"algo.score.kind={score}", "rollout.samples_per_group=1"],
                f"algo.score.kind={score} compares the samples of a group, but rollout.samples_per_group=1; use at "
                "least 2, or algo/score=raw",
            )
            for score in ("group_mean_std", "group_mean", "leave_one_out")
        ),
        (
            ["algo=reinforce_pp_baseline", "rollout.samples_per_group=1"],
            "use at least 2, or algo/score=raw with algo/advantage=returns",
        ),
        (
            ["algo=dapo", "rollout.samples_per_group=1"],
            "use at least 2, or algo/score=raw with algo.refill.drop_equal=false",
        ),
        (
            ["algo=dapo", "algo/advantage=baseline", "rollout.samples_per_group=1"],
            "or algo/score=raw with algo/advantage=returns and algo.refill.drop_equal=false",
        ),
        (
            ["algo=reinforce_pp_baseline", "algo/score=raw", "rollout.samples_per_group=1"],
            "algo/score=leave_one_out with rollout.samples_per_group of at least 2, or algo/advantage=returns",
        ),
        (["algo/advantage=baseline", "algo/score=none"], "algo.score.kind=none; choose algo/score=group_mean_std or"),
        (
            ["algo=reinforce_pp_baseline", "algo/score=raw"],
            "algo.score.kind=raw has none; choose algo/score=group_mean",
        ),
        (["algo/score=none"], "algo/advantage=broadcast reads a score, but algo.score.kind=none; choose algo/score="),
        (["algo=ppo", "algo/score=none"], "algo/advantage=gae reads a score, but algo.score.kind=none"),
        (
            ["algo/score=none", "algo.distil_coef=1", "teacher.path=a/b"],
            "for distillation alone choose algo/advantage=none",
        ),
        (["algo/advantage=none"], "algo.score.kind=group_mean_std is never read with algo/advantage=none"),
        (
            ["algo/advantage=none", "algo/score=none"],
            "algo/advantage=none: the loss of grpo needs advantages, and they are all 0; choose algo/advantage="
            "broadcast, or distil from a teacher with algo.distil_coef=1",
        ),
        (
            ["algo=opd", "algo.distil_coef=0", "algo/loss=custom", f"algo.loss.function{TARGET}", "algo.whiten=true"],
            "algo.whiten=true does nothing to advantages that are all 0",
        ),
        (
            ["algo/advantage=custom", f"algo.advantage.function{TARGET}", "algo.advantage.reads=[old_logprob]"],
            "algo.advantage.reads=old_logprob: there is no such column; did you mean old_logprobs? Available: old_log",
        ),
        (
            ["algo/advantage=custom", f"algo.advantage.function{TARGET}", "algo.advantage.reads=[values,values]"],
            "algo.advantage.reads=values: is named twice",
        ),
        (
            ["algo/loss=custom", f"algo.loss.function{TARGET}", "algo.loss.reads=[old_logprobs]"],
            "algo.loss.reads=old_logprobs: there is no such column",
        ),
        (
            ["algo/loss=custom", f"algo.loss.function{TARGET}", "algo.loss.reads=[values]"],
            "algo.loss.reads=values: this algorithm has no critic; choose algo/advantage=gae",
        ),
        # old log-probs
        (
            ["algo.old_logprobs=behaviour"],
            "algo.old_logprobs=behaviour with rollout.max_staleness=0: the present weights sampled every token, so "
            "that it does what always does; use algo.old_logprobs=always, or rollout.max_staleness=1",
        ),
        (
            ["algo.old_logprobs=behaviour", "rollout=one_step_off", BYPASS],
            "algo.old_logprobs=behaviour asks for a pass that algo.correction.bypass=true leaves out; change one of",
        ),
        # overlong and refill
        (["algo.overlong.cache_tokens=5"], "algo.overlong.cache_tokens=5 is never read with algo.overlong.penalty=0"),
        (
            ["algo=dapo", "algo.overlong.cache_tokens=1025"],
            "algo.overlong.cache_tokens=1025 leaves no length of rollout.max_response_tokens=1024 free, so that every "
            "response would be penalised; lower it (null is a fifth of the longest response)",
        ),
        (["algo=dapo", "algo.overlong.cache_tokens=1024"], "cache_tokens=1024 leaves no length of"),
        (
            ["algo=dapo", "algo.overlong.cache_tokens=1", "rollout.max_response_tokens=1"],
            "raise rollout.max_response_tokens, or set algo.overlong.penalty=0 and the cache to null",
        ),
        (
            ["algo=dapo", "rollout.max_response_tokens=1"],
            "algo.overlong.cache_tokens=null is one token with rollout.max_response_tokens=1, so that every response",
        ),
        (
            ["algo=opd", "teacher.path=a/b", "algo.overlong.penalty=1"],
            "algo.overlong.penalty=1 is taken off the rewards, but algo.score.kind=none never reads them",
        ),
        (
            ["algo=ppo", "algo.refill.drop_equal=true"],
            "algo.refill.drop_equal=true: with algo.score.kind=raw a group with equal rewards teaches as much",
        ),
        (
            [
                "algo/score=custom",
                f"algo.score.function{TARGET}",
                "algo.refill.drop_equal=true",
                "rollout.samples_per_group=1",
            ],
            "with rollout.samples_per_group=1 the rewards of every group are equal",
        ),
        (["algo.refill.max_dropped=2"], "algo.refill.max_dropped=2 is never read with algo.refill.drop_equal=false"),
        # loss
        (["algo.loss.eps_low=0", "algo.loss.eps_high=0"], "clips every ratio that is not exactly 1, so nothing is"),
        (["algo=gspo", "algo.loss.eps_low=0", "algo.loss.eps_high=0"], "raise them (algo/loss=gspo has its source's"),
        # functions of one's own
        *(
            ([f"algo/{part}=custom"], f"algo.{part}.function._target_: has no value; name your class or function")
            for part in ("score", "advantage", "loss", "correction", "reduction")
        ),
        *(
            (
                [f"algo.{part}.function{TARGET}"],
                f"algo.{part}.function is never called, because it is not custom; choose algo/{part}=custom",
            )
            for part in ("score", "correction", "reduction")
        ),
        (["algo/score=custom", "algo.score.function._target_=fn"], "must be the dotted name of a class or function"),
        # critic
        (["critic.optim.lr=1e-3"], "critic.optim.lr=0.001 is never read: algo=grpo has no critic; leave it out, or"),
        (["critic.clip=null"], "critic.clip=null is never read: algo=grpo has no critic"),
        (["critic.warmup_iterations=2"], "critic.warmup_iterations=2 is never read"),
        (["critic.model.path=owner/other"], "critic.model.path=owner/other is never read"),
        (
            ["algo=ppo", "critic.trainer.threads=2"],
            "critic.trainer.threads=2 differs from trainer.threads=1, but the critic and the policy compute in the "
            "same process; leave it out, and set trainer.threads for both",
        ),
        (["algo=ppo", "critic.trainer.max_tokens_per_microbatch=1"], "train on the same micro-batches"),
        (
            ["algo=ppo", "critic.trainer.max_skipped_steps=7"],
            "critic.trainer.max_skipped_steps=7 differs from trainer.max_skipped_steps=3, but one bound holds for the "
            "skipped steps of both",
        ),
        *(
            (
                ["algo=ppo", f"critic.model.{name}={value}"],
                f"critic.model.{name}={value} is never read, because the critic's model is the policy's; leave it out",
            )
            for name, value in (("name", "mine"), ("parameters", "5"))
        ),
        (["algo=ppo", "critic.trainer.deterministic=false"], "differs from trainer.deterministic=true"),
        (["algo=ppo", "critic.model.tokenizer=owner/other"], "but the critic reads the policy's tokens"),
        (["algo=ppo", "critic.optim.min_lr=1e-9"], "critic.optim.min_lr=1e-09 is never reached with critic.optim.sch"),
        (
            ["algo=ppo", "critic.optim.schedule=linear", "critic.optim.min_lr=1"],
            "critic.optim.min_lr=1 is above critic.o",
        ),
        (["algo=ppo", "critic.model.path=/no"], "critic.model.path=/no: there is no such folder"),
        (["algo=ppo", "critic.model.path=owner/x"], "critic.model.path=owner/x and critic.model.create are both given"),
        (
            ["algo=ppo", "critic.optim.megatron.lr=1"],
            "critic.optim.megatron.lr: is set by optim.lr and cannot be given",
        ),
        (["algo=ppo", "critic.trainer.ddp.overlap_grad_redus=true"], "critic.trainer.ddp.overlap_grad_redus: "),
        (["algo=ppo", "critic.trainer.megatron.deallocate_pipeline_outputs=3"], "must be true or false"),
        # rewards that nobody gives
        (
            ["reward=none"],
            "algo.score.kind=group_mean_std reads rewards, and reward=none gives each response 0; choose another "
            "reward, or an algorithm that reads none (algo=opd)",
        ),
        # teacher
        (
            ["algo=opd"],
            "algo.distil_coef=1 needs a teacher; give teacher.path=<Hugging Face folder or hub name>, or teacher."
            "recipe=<recipe that trains one>, or algo.distil_coef=0",
        ),
        (
            [
                "algo/advantage=custom",
                f"algo.advantage.function{TARGET}",
                "algo.advantage.reads=[teacher_logprobs]",
            ],
            "algo.advantage.reads=[teacher_logprobs] needs a teacher",
        ),
        (["teacher.path=a/b"], "teacher.path=a/b is never read, because algo.distil_coef=0; set algo.distil_coef=1"),
        (["teacher.recipe=arithmetic"], "teacher.recipe=arithmetic is never read, because algo.distil_coef=0"),
        (["algo=opd", "teacher.path=a/b", "teacher.recipe=c"], "teacher.path=a/b and teacher.recipe=c are both given"),
        (["algo=opd", "teacher.path=/no"], "teacher.path=/no: there is no such folder"),
        (["algo=opd", "teacher.recipe=nowhere"], "teacher.recipe=nowhere: recipe=nowhere: no such recipe"),
        (["algo=opd", "teacher.recipe=arithmetic_opd"], "a teacher's recipe has no teacher.recipe of its own"),
    ],
)
def test_a_setting_that_cannot_act_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*overrides)
    assert any(line in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


def test_old_log_probs_by_what_sampled_are_for_samples_that_may_be_stale(problems: Problems) -> None:
    stale = ["rollout.max_staleness=1", "cluster.placement=disaggregated"]
    assert problems("algo.old_logprobs=behaviour", *stale) == []


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "reinforce_pp", "reinforce_pp_baseline", "ppo"])
def test_turns_are_credited_by_returns_by_a_critic_and_by_groups_of_turns(problems: Problems, algo: str) -> None:
    assert problems(f"algo={algo}", "env=calculator", "algo.turn_discount=0.5") == []


def test_a_run_without_rewards_measures_nothing(plain_recipe: str) -> None:
    distilled = ["algo=opd", "teacher.recipe=arithmetic_teacher", "reward=none"]
    (note,) = check(compose(plain_recipe, distilled))
    assert note.startswith("reward=none gives each response 0, so that the accuracy of the evaluation says nothing")
    assert check(compose(plain_recipe, [*distilled, "eval.enabled=false"])) == []


@pytest.mark.parametrize(
    ("overrides", "estimator"),
    [
        (["algo/kl=loss"], "k3"),
        (["algo=reinforce_pp"], "k1"),
        (["algo=reinforce_pp", "algo.kl.placement=loss"], "k3"),
        (["algo.kl.placement=loss", "algo.kl.coef=0.1"], "k3"),
        (["algo=ppo", "algo/kl=none", "algo.kl.placement=reward", "algo.kl.coef=0.1"], "k1"),
        (["algo=ppo", "algo.kl.estimator=k2"], "k2"),
    ],
    ids=" ".join,
)
def test_the_default_estimator_is_that_of_its_place(plain_recipe: str, overrides: list[str], estimator: str) -> None:
    config = compose(plain_recipe, overrides)
    check(config)
    assert config.algo.kl.chosen.name == estimator


def test_a_critic_that_never_lets_the_policy_train_is_noted(plain_recipe: str) -> None:
    notes = check(compose(plain_recipe, ["algo=ppo", "critic.warmup_iterations=3", "run.iterations=3"]))
    assert notes == ["critic.warmup_iterations=3: the run's 3 iterations end before the policy makes a step"]


def test_other_models_must_fit_the_layout_and_the_tokenizer(problems: Problems, hf: Path) -> None:
    layout = ["cluster=node8", "model=qwen3_0_6b", f"model.path={hf}/qwen3_0_6b", "model.create=null"]
    engines = ["rollout.engines=8", "parallel.tensor=8"]
    critic = [*layout, *engines, "algo=ppo", f"critic.model.path={hf}/qwen3_30b"]
    assert any(
        line.startswith("critic.model: parallel.tensor=8 does not divide the 4 key-value heads")
        for line in problems(*critic)
    )
    teacher = [*layout, *engines, "algo=opd", f"teacher.path={hf}/qwen3_30b"]
    assert any(line.startswith("teacher: parallel.tensor=8 does not divide the 4") for line in problems(*teacher))
    small = ["algo=ppo", "critic.model.create.characters='01'"]
    (line,) = problems(*small, "model=tiny_qwen3", "rollout.max_prompt_tokens=16", "rollout.max_response_tokens=8")
    assert line.startswith("critic.model: tiny_qwen3 has a vocabulary of 6, the policy one of 20; choose a model with")


def test_the_stage_of_a_teacher_is_checked_too(tmp_path: Path, problems: Problems) -> None:
    (tmp_path / "teacher.yaml").write_text("defaults: [arithmetic_sft, _self_]\nalgo:\n  whiten: true\n")
    (line,) = problems("algo=opd", f"teacher.recipe={tmp_path}/teacher.yaml")
    assert line.startswith(f"teacher.recipe={tmp_path}/teacher.yaml: algo.whiten=true: supervised training")
