"""Combinations that make no sense are refused with a line that says what to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.config.keys import plain

Problems = Callable[..., list[str]]

DISAGGREGATED = "cluster.placement=disaggregated"
NODE8 = ("cluster=node8", "rollout.engines=8")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # layout
        (["parallel.tensor=3"], "parallel.tensor=3 does not divide the 4 attention heads of four_heads; use 1 or 2"),
        (["parallel.tensor=4"], "does not divide the 2 key-value heads of four_heads; use 1 or 2"),
        (["parallel.pipeline=3"], "does not divide the 4 layers of four_heads; use 1, 2 or 4"),
        (["parallel.virtual_pipeline=2"], "needs parallel.pipeline above 1"),
        (["parallel.pipeline=2", "parallel.virtual_pipeline=4"], "the 2 layers of a stage; use null or 2"),
        (["parallel.pipeline=4", "parallel.virtual_pipeline=2"], "the 1 layers of a stage; use null"),
        (["parallel.sequence=true"], "needs parallel.tensor above 1"),
        (["parallel.expert=2", "parallel.data=2"], "four_heads has no experts"),
        (["parallel.expert_tensor=1"], "four_heads has no experts"),
        (
            ["parallel.tensor=2", "parallel.data=4"],
            "parallel: tensor 2 x pipeline 1 x context 1 x data 4 = 8 trainer ranks, but cluster.max_trainer_ranks=4; "
            "use parallel.data=2, or raise that limit",
        ),
        (
            ["parallel.context=8"],
            "= 8 trainer ranks, but cluster.max_trainer_ranks=4; use tensor x pipeline x context of at most 4",
        ),
        (["rollout.engines=9"], "rollout.engines=9, but cluster.max_engines=4"),
        (
            [DISAGGREGATED, "rollout.engines=3", "eval.engines=2"],
            "rollout.engines=3 + eval.engines=2, but cluster.max_engines=4; lower the one or raise the other",
        ),
        (
            [DISAGGREGATED, "rollout.engine_urls=['http://a:1']", "eval.engines=5"],
            "eval.engines=5, but cluster.max_engines=4; lower the one or raise the other",
        ),
        (["eval.engines=1"], "use cluster.placement=disaggregated, or eval.engines=0, which evaluates between the"),
        (["algo=sft", "eval.engines=1"], "eval.engines=1: supervised training uses its engines for nothing but"),
        (["cluster.gpus_per_node=1"], "cluster.gpus_per_node=1 has no meaning on the CPU"),
        (["cluster.nodes=2"], "a CPU run uses one machine"),
        (["rollout.engine_key_file=/k"], "is only read with rollout.engine_urls"),
        (["rollout.engine_urls=[localhost:1]"], "is not an address; write it as http://host:port"),
        (["rollout.engine_urls=['http://a:1','http://b:1']", "rollout.engines=3"], "rollout.engine_urls lists 2"),
        # algorithm
        (["algo=sft"], "rollout.samples_per_group=8: supervised training"),
        (["algo.steps_per_iteration=3"], "does not divide rollout.groups_per_iteration=64; use 63 groups"),
        (
            ["rollout.groups_per_iteration=1", "rollout.samples_per_group=2", "parallel.data=4"],
            "a step has 2 samples (1 groups of 2) for 4 data-parallel ranks",
        ),
        (["optim.min_lr=1e-9"], "is never reached with optim.schedule=constant"),
        (["optim.schedule=cosine", "optim.min_lr=1"], "optim.min_lr=1 is above optim.lr=0.0004"),
        (
            ["optim.schedule=linear", "optim.warmup_steps=9", "optim.decay_steps=9"],
            "must be below optim.decay_steps (9)",
        ),
        (
            ["optim.schedule=cosine", "optim.decay_steps=9", "run.iterations=12"],
            "optim.decay_steps=9 with optim.min_lr=0: the run's steps from 10 to 12 would have learning rate 0 and "
            "train nothing; raise optim.min_lr, or set optim.decay_steps to null for the whole run",
        ),
        # rollout and evaluation
        (["rollout.max_staleness=1"], "use cluster.placement=disaggregated, or rollout=partial, which goes on with"),
        (
            ["rollout.max_staleness=1", DISAGGREGATED, "rollout.stale=wait", "rollout.over_sampling=2.5"],
            "only rollout.max_staleness=1 + 1 can leave in time; lower it to 2, or use rollout.stale=mask",
        ),
        (["rollout.stale=drop"], "rollout.stale=drop is not read with rollout.max_staleness=0; leave it out, or raise"),
        (
            ["agent.command=python my_agent.py", "rollout.history=template"],
            "rollout.history=template is not supported with agents, which bring their history; leave it out",
        ),
        (
            ["agent.command=python my_agent.py", "rollout.max_episode_s=60"],
            "rollout.max_episode_s=60 is not read with agents; agent.timeout_s bounds them",
        ),
        (
            ["data.apply_chat_template=false", "rollout.history=template"],
            "rollout.history=template: data.apply_chat_template=false leaves no template to write it",
        ),
        (["rollout.over_sampling=2"], "rollout.over_sampling=2 is not read with rollout.max_staleness=0"),
        (
            ["rollout.presence_penalty=1"],
            "logits that depend on the tokens before, while the trainer's log-probs",
        ),
        (["rollout.frequency_penalty=-1"], "set it to 0 (evaluation has eval.frequency_penalty)"),
        (["rollout.repetition_penalty=1.1"], "set it to 1 (evaluation has eval.repetition_penalty)"),
        (
            ["rollout.min_response_tokens=5"],
            "until then no end token is drawn, which the trainer's log-probs do",
        ),
        (["rollout.min_p=0.1", "cluster.device=cpu"], "rollout.min_p=0.1: SGLang's sampler on the CPU cannot use it"),
        (["eval.min_p=0.1", "cluster.device=cpu"], "set it to 0, or use eval.top_p"),
        (
            ["rollout.stop=[END]", "rollout.on_sync=abort_and_resume", "rollout.max_staleness=1", DISAGGREGATED],
            "a text that a sync cuts in two would not be seen; use rollout.stop_token_ids",
        ),
        (
            ["rollout.sglang.preferred_sampling_params={min_p: 0.1}"],
            "rollout.sglang.preferred_sampling_params: is set by rollout.temperature, top_p and top_k (and eval's) and "
            "cannot be given here too",
        ),
        (["rollout.on_sync=abort_and_resume"], "tokens of the old ones, which rollout.max_staleness=0 does not allow"),
        (["rollout.on_sync=retract"], "colocated engines give up their memory, and with it the requests in them"),
        (["eval.pass_k=[1,4]"], "eval.pass_k=4: must be from 1 to eval.samples_per_prompt=1"),
        (["eval.temperature=0", "eval.samples_per_prompt=2"], "gives the same answer 2 times"),
        (["eval.data=null"], "choose data@eval.data=<option>, or eval.enabled=false"),
        (["rollout.max_response_tokens=3073"], "is above the 4096 positions of four_heads"),
        (["weights.canary_tokens=4097"], "weights.canary_tokens=4097 is above the 4096 positions of four_heads"),
        # data, reward, stages
        (["run.recipe=a/b"], "run.recipe=a/b: must be a plain name, without a slash"),
        (["model.name=../../x"], "model.name=../../x: must be a plain name, without a slash"),
        (["run.recipe=.."], "run.recipe=..: must be a plain name"),
        (["reward=custom"], "reward.function._target_: has no value"),
        (["reward=custom", "reward.function._target_=nodots"], "must be the dotted name of a class or function"),
        (["data=custom"], "data.source._target_: has no value"),
        (["data=jsonl", "data.path=/x.txt"], "data.path=/x.txt: must end in .jsonl or .parquet"),
        (["data=jsonl", "data.path=[/x.jsonl,/x.txt]"], "data.path=/x.txt: must end in .jsonl or .parquet"),
        (["data=jsonl", "data.path=[]"], "data.path=[]: must be a path or a list of paths"),
        (["data=jsonl", "data.path=/x.jsonl@5"], "data.path=/x.jsonl@5: a slice is written file@start:stop"),
        (
            ["data=jsonl", "data.path=/x.jsonl", "data.label_key=prompt"],
            "data.label_key=prompt is the same key as data.prompt_key; name the key of the label",
        ),
        (["data.max_bad_rate=2"], "data.max_bad_rate=2.0: must be at least 0 and at most 1"),
        (
            ["data.split=held_out"],
            "data.split=held_out and eval.data.split=held_out: the evaluation would be on what is trained on",
        ),
        (
            ["data=custom", "data@eval.data=custom", "data.source._target_=a.B", "eval.data.source._target_=a.B"],
            "data.source and eval.data.source are the same",
        ),
        (["data.split_seed=7"], "data.split_seed=7 and eval.data.split_seed=0 must be the same"),
        (["data.split=test"], "data.split=test: must be train or held_out"),
        (["warm_start.recipe=arithmetic"], "warm_start.recipe=arithmetic: a warm start is supervised"),
        (["warm_start.recipe=nowhere"], "no such recipe"),
        # model
        (["model.create=null"], "model.path: has no value"),
        (["model.create=null", "model.path=/nowhere"], "model.path=/nowhere: there is no such folder"),
        (["model.path=owner/name"], "model.path=owner/name and model.create are both given"),
        (
            ["model.create.architecture.model_type=gemma2"],
            "models of model_type=gemma2 are not supported; supported families: ",
        ),
        (["model.create.architecture.hidden_size=0"], "hidden_size=0: must be a whole number above 0"),
        (
            ["+model.create.architecture.num_hiden_layers=2"],
            "model.create.architecture: num_hiden_layers is not a key of qwen3; did you mean num_hidden_layers?",
        ),
        (["+model.create.architecture.mup=2"], "mup is not a key of qwen3, so it would be ignored"),
        (["model.create.architecture.initializer_range=nan"], "initializer_range=NaN: must be a number of at least 0"),
        (["model.create.architecture.initializer_range=1e9"], "initializer_range=1000000000.0: must be above 0 and at"),
        (["+model.create.architecture.pad_token_id=99"], "pad_token_id=99: is beyond the vocabulary of 14"),
        (["model.create.architecture.rms_norm_eps=1"], "rms_norm_eps=1: must be a number between 0 and 1"),
        # options passed through
        (["trainer.megatron.tensor_model_parallel_size=2"], "is set by parallel.tensor and cannot be given here too"),
        (["rollout.sglang.api_key=x"], "rollout.sglang.api_key: is set by rlscale itself"),
        (["rollout.sglang.model_path=x"], "is set by model.path"),
        (["rollout.router.port=1"], "is set by rlscale itself (a free one)"),
        (["optim.megatron.lr=1"], "is set by optim.lr"),
        (["trainer.ddp.overlap_grad_redus=true"], "did you mean overlap_grad_reduce?"),
        (["rollout.sglang.mem-fraction-static=0.2"], "did you mean mem_fraction_static?"),
        (["rollout.sglang.mem_fraction_static=some"], "must be a number or null"),
        (["trainer.megatron.deallocate_pipeline_outputs=3"], "must be true or false"),
    ],
)
def test_a_senseless_combination_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*overrides)
    assert any(line in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


def test_all_problems_of_a_check_come_together(problems: Problems) -> None:
    found = problems("parallel.tensor=3", "parallel.pipeline=3", "algo.kl.coef=1", "eval.pass_k=[2]")
    assert len(found) == 5
    assert any("= 9 trainer ranks" in line for line in found)


def test_a_large_model_on_the_cpu_says_which_groups_to_change(problems: Problems, hf: Path) -> None:
    (line,) = problems("model=qwen3_30b")
    assert "30.5B parameters need 549 GB to train" in line
    (line,) = problems("model=qwen3_30b", "algo=ppo")
    assert "30.5B parameters and critic, reference need 1098 GB to train" in line  # 30.5 x (16 + 16 + 2 + 2)
    assert "choose cluster=node8 parallel=moe_8gpu (or another GPU cluster) and what `plan --solve` finds" in line
    (line,) = problems("model=qwen3_4b", f"model.path={hf}/qwen3_4b")
    assert "4.02B parameters" in line
    assert "choose cluster=node8 parallel=dense_8gpu" in line


def test_a_model_that_is_not_downloaded_skips_its_checks_and_says_so(
    monkeypatch: pytest.MonkeyPatch, plain_recipe: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    notes = check(compose(plain_recipe, ["model=qwen3_30b", *NODE8, "parallel.tensor=8"]))
    assert any("Qwen/Qwen3-30B-A3B is not downloaded yet" in note for note in notes)


def test_engines_that_leave_gpus_of_their_own_idle_are_noted(plain_recipe: str, hf: Path) -> None:
    own = [DISAGGREGATED, "cluster.rollout_gpus=4", "rollout.engines=1", f"model.path={hf}/qwen3_0_6b"]
    notes = check(compose(plain_recipe, ["model=qwen3_0_6b", *NODE8, *own]))
    assert any("the engines use 1 of their 4 GPUs" in note for note in notes)


def test_a_path_that_is_nowhere_is_said_before_the_model_that_is_made_instead(problems: Problems) -> None:
    first, second = problems("model.path=/nope")
    assert first.startswith("model.path=/nope: there is no such folder")
    assert second.startswith("model.path=/nope and model.create are both given")


def test_a_model_folder_without_or_with_a_broken_config_is_named(problems: Problems, tmp_path: Path) -> None:
    overrides = ("model.create=null", f"model.path={tmp_path}")
    assert problems(*overrides) == [
        f"model.path={tmp_path}: config.json is missing; is this a Hugging Face model folder?"
    ]
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in problems(*overrides)[0]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert "models of model_type=mamba are not supported; supported families: " in problems(*overrides)[0]


def test_plain_names_enums() -> None:
    assert plain(compose())["algo"]["score"]["kind"] == "group_mean_std"


def test_training_samples_as_the_trainer_can_follow(plain_recipe: str) -> None:
    given = ["rollout.top_p=0.9", "rollout.top_k=20", "rollout.stop=[END]", "rollout.stop_token_ids=[5]"]
    assert check(compose(plain_recipe, given)) == []


def test_evaluation_samples_as_it_likes(plain_recipe: str) -> None:
    given = ["eval.top_p=0.9", "eval.top_k=20", "eval.presence_penalty=1", "eval.repetition_penalty=1.1"]
    assert check(compose(plain_recipe, [*given, "eval.min_response_tokens=5", "eval.ignore_eos=true"])) == []


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_a_run_of_one_iteration_may_have_any_schedule(shape: str, plain_recipe: str) -> None:
    assert check(compose(plain_recipe, [f"optim.schedule={shape}", "run.iterations=1"])) == []


def test_decay_counts_the_policys_own_steps(plain_recipe: str) -> None:
    """The critic's warm-up is not part of the policy's schedule: nine of twelve iterations decay in nine steps."""
    run = ["algo=ppo", "run.iterations=12", "optim.schedule=linear", "optim.decay_steps=9"]
    warmup = "critic.warmup_iterations=3"
    assert check(compose(plain_recipe, [*run, warmup, "critic.optim.decay_steps=null"])) == []
    with pytest.raises(ConfigError) as error:  # the critic, which follows the policy's, makes twelve steps
        check(compose(plain_recipe, [*run, warmup]))
    (line,) = error.value.problems
    assert line.startswith("critic.optim.decay_steps=9 with critic.optim.min_lr=0: the run's steps from 10 to 12 would")
    with pytest.raises(ConfigError) as error:
        check(compose(plain_recipe, run))
    assert len(error.value.problems) == 1


def test_a_run_shorter_than_its_warmup_is_only_noted(plain_recipe: str) -> None:
    notes = check(compose(plain_recipe, ["optim.schedule=linear", "optim.warmup_steps=10", "run.iterations=3"]))
    assert any("the run's 3 optimizer steps end within optim.warmup_steps=10" in note for note in notes)
