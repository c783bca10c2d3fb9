"""`python -m rlscale plan`: what it prints, and its exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rlscale.cli import main
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.locations import conf_dir
from rlscale.config.composition.published_configs import architecture_of, published
from rlscale.families.config_file import complete
from rlscale.families.tensors import parameter_count
from rlscale.plan.drafts import draft_of
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.planned_run import PINNED, plan_run
from rlscale.plan.rank_layout import RankLayout, StageWeights
from rlscale.plan.solving import _settings
from rlscale.plan.trainer_memory import Training, rank_memory

GSM8K = ["recipe=gsm8k", "data.path=train.jsonl", "eval.data.path=test.jsonl"]
LARGE = [*GSM8K, "model=qwen3_30b", "parallel=moe_8gpu", "rollout.max_response_tokens=8192"]


def test_a_run_that_fits_is_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *GSM8K]) == 0
    said = capsys.readouterr().out
    assert "qwen3_0_6b, 0.596B parameters" in said
    assert "\nfits: " in said
    for phase in ("train", "log-probs", "sync", "save", "generate"):
        assert f"  {phase} " in said


def test_a_run_that_does_not_fit_is_code_1_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LARGE]) == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said
    assert "does not fit: sync needs" in said


def test_weights_on_their_way_take_two_buckets_those_of_gathered_experts_four_and_deltas_the_model_twice() -> None:
    dense, experts = (plan_run(compose("gsm8k", given)) for given in (GSM8K[1:], LARGE[1:]))
    for plan, buckets in ((dense, 2), (experts, 4)):
        (sync,) = (phase for phase in plan.phases if phase.name == "sync")
        assert sync.kinds["buckets"] == buckets * 256 * 2**20
    assert "deltas" not in dense.host
    deltas = plan_run(compose("gsm8k", [*GSM8K[1:], "weights/transport=delta"])).host["deltas"]
    assert deltas == pytest.approx(2 * 2 * dense.parameters, rel=0.01), "in bf16"


def test_copies_for_lost_ranks_are_three_of_each_state_that_some_rank_of_the_machine_has() -> None:
    two = [*GSM8K[1:], "cluster.gpus_per_node=2", "parallel.data=2"]
    sharded = [*two, "trainer.distributed_optimizer=true"]
    plans = [plan_run(compose("gsm8k", given)) for given in (two, sharded, [*sharded, "checkpoint.in_memory=true"])]
    peers, alone, asked = (plan.host.get("copies for lost ranks") for plan in plans)
    of_peers, of_sharded = (plan.ranks[0].weights + plan.ranks[0].optimizer for plan in (plans[0], plans[2]))
    assert (peers, alone, asked) == (3 * of_peers, None, 3 * 2 * of_sharded)
    assert "copies for lost ranks" not in plan_run(compose("gsm8k", [*two, "run.recover=none"])).host


def test_copies_for_lost_ranks_have_the_critic_too() -> None:
    two = [*GSM8K[1:], "cluster.gpus_per_node=2", "parallel.data=2"]
    values = [*two, "algo/advantage=gae"]
    alone, same, larger = (
        plan_run(compose("gsm8k", given)).host["copies for lost ranks"]
        for given in (two, values, [*values, "critic.model.path=Qwen/Qwen3-1.7B"])
    )
    assert same == 2 * alone, "a critic of the policy's size"
    assert larger / alone == pytest.approx(1 + 1.72 / 0.596, rel=0.02)


def test_adapters_need_no_reference_and_hardly_any_gradients_or_optimizer() -> None:
    kl = [*LARGE[1:], "algo/kl=loss", "algo.kl.coef=0.01"]
    whole, adapters = (plan_run(compose("gsm8k", [*kl, *more])) for more in ([], ["model.lora={rank: 16}"]))
    assert "reference" in whole.host
    assert "reference" not in adapters.host
    for before, after in zip(whole.ranks, adapters.ranks, strict=True):
        assert after.weights == before.weights
        assert after.gradients < 0.01 * before.gradients
        assert after.optimizer < 0.01 * before.optimizer


def test_a_kept_base_takes_the_memory_of_its_codes_and_of_embedding_and_output_layer() -> None:
    plain, kept = (
        plan_run(compose("gsm8k", [*LARGE[1:], f"model.lora={{base: {form}}}"])) for form in ("as_trained", "int4")
    )
    for before, after in zip(plain.ranks, kept.ranks, strict=True):
        linears = (before.weights - after.weights) / (2 - 0.5 - 2 / 32)  # bytes of bfloat16 and of int4 in groups of 32
        assert 0.5 * before.weights < 2 * linears < before.weights
        assert after.gradients == before.gradients
    saved = max(before.weights for before in plain.ranks) - max(after.weights for after in kept.ranks)
    slept = plain.host["trainer, asleep"] - kept.host["trainer, asleep"]
    assert slept == pytest.approx(8 * PINNED * saved)  # GPUs of a machine


def test_models_beside_the_policy_have_their_own_engines_and_unknown_ones_are_said_to_be_missing(
    tmp_path: Path,
) -> None:
    apart = ["cluster.placement=disaggregated", "cluster.rollout_gpus=4", "rollout.engines=2"]
    large = [f"rollout.models.judge.{value}" for value in ("path=Qwen/Qwen3-30B-A3B", "gpus_per_engine=2")]
    plan = plan_run(compose("gsm8k", [*GSM8K[1:], *apart, *large, f"rollout.models.strange.path={tmp_path}"]))
    policy, judge = (phase for phase in plan.phases if phase.name == "generate")
    assert (policy.where, judge.where) == ("engine", "judge")
    assert judge.kinds["weights"] == pytest.approx(30.5e9, rel=0.01)  # bytes on each of two GPUs, in bf16
    assert plan.uncounted == ("strange",)
    tiny = compose(None, ["rollout.models.judge.follows_policy=true", "rollout.models.judge.engines=2"])
    (phase,) = plan_run(tiny).phases
    assert phase.kinds["judge's weights"] == 2 * phase.kinds["engines' weights"]


def test_a_draft_takes_room_of_the_engine_and_an_unknown_one_is_said_to_be_missing(tmp_path: Path) -> None:
    speculation = ["rollout.speculation.algorithm=standalone", "rollout.speculation.draft=Qwen/Qwen3-0.6B"]
    alone, drafted = (plan_run(compose("gsm8k", [*GSM8K[1:], "model=qwen3_30b", *more])) for more in ([], speculation))
    assert alone.engine is not None
    assert drafted.engine is not None
    assert drafted.engine.weights - alone.engine.weights == pytest.approx(2 * 0.596e9, rel=0.01)
    assert drafted.engine.cached_tokens < alone.engine.cached_tokens
    owned = ["model=qwen3_next_80b", "rollout.speculation.algorithm=mtp"]
    config = compose("gsm8k", [*GSM8K[1:], *owned])
    own = draft_of(config, architecture_of(config.model))
    assert own is not None
    assert own.cache_numbers == 2 * 2 * 256  # its layer has attention: keys and values of two heads
    assert own.parameters == 81_324_862_720 - plan_run(config).parameters
    strange = [speculation[0], f"rollout.speculation.draft={tmp_path}"]
    assert "draft" in plan_run(compose("gsm8k", [*GSM8K[1:], *strange])).uncounted


def test_groups_of_engines_are_counted_each_with_their_gpus() -> None:
    groups = [
        "rollout.engine_groups.reads={role: prefill, gpus_per_engine: 4}",
        "rollout.engine_groups.writes.role=decode",
    ]
    apart = ["cluster.placement=disaggregated", "cluster.rollout_gpus=5"]
    plan = plan_run(compose("gsm8k", [*GSM8K[1:], "model=qwen3_30b", *apart, *groups]))
    fullest, other = (phase for phase in plan.phases if phase.name == "generate")
    assert (fullest.where, other.where) == ("engine", "reads")
    assert fullest.kinds["weights"] == pytest.approx(4 * other.kinds["weights"])
    assert plan.time is None


def test_engines_of_quantised_weights_have_more_room_and_rounding_takes_some() -> None:
    form = "rollout.weights=fp8_block"
    plain, quantised, trained_so = (
        plan_run(compose("gsm8k", [*LARGE[1:], *more])) for more in ([], [form], [form, "trainer.fake_quant=true"])
    )
    before, after = plain.engine, quantised.engine
    assert before is not None
    assert after is not None
    assert after.weights / before.weights == pytest.approx(0.5, abs=0.02)  # embedding and output layer stay
    assert after.cache > before.cache
    for rank, rounding in zip(quantised.ranks, trained_so.ranks, strict=True):
        assert (rounding.weights, rounding.rounded, rank.rounded) == (rank.weights, rank.weights, 0)


def test_training_in_fp8_keeps_two_bytes_more_of_every_weight_of_a_linear() -> None:
    plain, eight_bits = (plan_run(compose("gsm8k", [*LARGE[1:], *more])) for more in ([], ["trainer.fp8=blockwise"]))
    for one, other in zip(plain.ranks, eight_bits.ranks, strict=True):
        assert one.total + other.rounded == other.total
        assert 0.8 < other.rounded / one.weights < 1  # of two bytes each; embedding and output layer have none


@pytest.mark.parametrize(("form", "share"), [("fp8_block", 0.5), ("int4", 0.27)])
def test_a_sync_and_decoding_take_the_bytes_of_the_weights_that_engines_hold(form: str, share: float) -> None:
    given = ["model=qwen3_30b", "model.dtype=bfloat16", "rollout.sglang.mem_fraction_static=0.8"]
    before, after = (
        plan_run(compose("gsm8k", [*GSM8K[1:], *given, *more])).time for more in ([], [f"rollout.weights={form}"])
    )
    assert before is not None
    assert after is not None
    assert (after.sync.least - 0.2) / (before.sync.least - 0.2) == pytest.approx(share, abs=0.03)
    assert (after.sync.most - 2.0) / (before.sync.most - 2.0) == pytest.approx(share, abs=0.03)
    assert after.generate.least < before.generate.least
    single = plan_run(compose("gsm8k", [*GSM8K[1:], *given, "model.dtype=float32"])).time
    assert single is not None
    assert (single.sync.least - 0.2) / (before.sync.least - 0.2) == pytest.approx(2.0)


def test_a_larger_gpu_takes_what_a_smaller_one_does_not() -> None:
    small = plan_run(compose("gsm8k", [*GSM8K[1:], "cluster.gpu_memory_gb=16"]))
    large = plan_run(compose("gsm8k", [*GSM8K[1:], "cluster.gpu_memory_gb=80"]))
    assert (small.fits, large.fits) == (False, True)


def test_an_engine_on_a_small_gpu_takes_less_for_its_cache_and_a_critic_is_said_to_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["plan", *GSM8K, "cluster.gpu_memory_gb=48"]
    assert main(small) == 0
    assert "NOT COUNTED" not in capsys.readouterr().out
    main([*small, "algo=ppo", "~algo.steps_per_iteration"])
    out = capsys.readouterr().out
    assert "NOT COUNTED: critic" in out
    assert "fits without critic" in out


@pytest.mark.parametrize(("tokens", "tried"), [(1024, {1}), (40_000, {1, 2, 4, 8})])
def test_long_samples_are_tried_on_several_context_parallel_ranks(tokens: int, tried: set[int]) -> None:
    config = compose("gsm8k", [*GSM8K[1:], "model=qwen3_30b", f"rollout.max_response_tokens={tokens}"])
    settings = list(_settings(config, architecture_of(config.model)))
    assert {one.context for one in settings} == tried
    assert any("parallel.context=8" in one.overrides(config) for one in settings) == (8 in tried)


def test_every_solution_fits_composes_and_passes_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--solve", *LARGE]) == 1  # as it is given, it does not fit
    lines = capsys.readouterr().out.splitlines()
    chosen = [line.split() for line in lines[lines.index("the best that fit:") + 2 :: 2]]
    assert 1 <= len(chosen) <= 5
    assert len({tuple(words) for words in chosen}) == len(chosen)
    for words in (chosen[0], chosen[-1]):
        config = compose("gsm8k", [*LARGE[1:], *words])
        architecture = architecture_of(config.model)
        check(config, architecture)
        assert plan_run(config, architecture).fits


def test_how_many_tokens_attention_sees_is_said_where_it_is_not_all(capsys: pytest.CaptureFixture[str]) -> None:
    line = "attention is computed to all tokens: at most 2,048 in a sequence (index_topk)"
    assert main(["plan", *GSM8K, "model=glm5"]) == 1
    assert line in capsys.readouterr().out.splitlines()
    assert main(["plan", *GSM8K]) == 0
    assert "attention" not in capsys.readouterr().out
    assert main(["plan", *GSM8K, "model=glm5", "rollout.max_response_tokens=1900"]) == 2
    assert "is above the 2048 tokens that the attention of glm5 sees at most (index_topk)" in capsys.readouterr().err


def test_why_says_what_other_values_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--why", "trainer.recompute", *GSM8K, "rollout.sglang.mem_fraction_static=0.2"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("trainer.recompute=none: the fullest phase (train) takes ")
    assert [line.split(":")[0].strip() for line in others] == ["trainer.recompute=selective", "trainer.recompute=full"]
    full = float(others[1].split("(")[1].split(",")[0])
    assert full < -5  # all of a layer but its input, of 28 layers
    assert "; train -" in others[1], "generating is the fullest phase then, and training needs less, too"


def test_why_tries_every_word_that_a_key_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--why", "trainer.fp8", *GSM8K]) == 0
    _, *others = capsys.readouterr().out.splitlines()
    tried = [line.split(":")[0].strip() for line in others]
    assert tried == ["trainer.fp8=tensorwise", "trainer.fp8=blockwise", "trainer.fp8=mxfp8"]
    assert all("train +" in line for line in others)


def test_why_says_what_is_refused_and_what_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--why=parallel.expert"]) == 0
    _, *others = capsys.readouterr().out.splitlines()
    assert others == ["  parallel.expert=2 is refused: parallel.expert=2: tiny_qwen3 has no experts; set it to 1"]
    assert main(["plan", "--why", "optim.lr", *GSM8K]) == 0
    _, *others = capsys.readouterr().out.splitlines()
    assert [line.rpartition("; ")[2] for line in others] == ["no phase needs more or less"] * 2


def test_on_the_cpu_the_processes_themselves_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "parallel.data=2", "rollout.engines=2"]) == 0
    said = capsys.readouterr().out
    assert "(processes 3.90, " in said
    assert "time of an iteration: not estimated on the CPU: the formula goes by an H100's speeds" in said
    assert main(["plan", "parallel.data=2", "rollout.engines=2", "cluster.memory_gb=4"]) == 1


def test_a_run_that_only_generates_has_no_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["cluster=node8", "model=qwen3_4b", "warm_start=null", "rollout.engines=8", "rollout.store=all"]
    assert main(["plan", *given, "run.generate_only=true"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("arithmetic: model qwen3_4b, 4.02B parameters; no trainer\n")
    assert "time of an iteration: not estimated where nothing is trained" in said


@pytest.mark.parametrize("evaluated", ["true", "false"])
def test_a_supervised_run_has_neither_passes_nor_generation_in_its_time(
    evaluated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["cluster=node8", "model=qwen3_4b", "cluster.gpu_memory_gb=141", f"eval.enabled={evaluated}"]
    if evaluated == "true":
        given += ["rollout.engines=8", "data@eval.data=arithmetic", "eval.data.split=held_out", "reward=arithmetic"]
    assert main(["plan", "recipe=arithmetic_sft", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    (time,) = (line for line in lines if line.startswith("time of an iteration"))
    assert re.fullmatch(r"time of an iteration (.+): train \1", time)
    phases = ["train", "sync", "save", "generate"] if evaluated == "true" else ["train", "save"]
    assert [line.split()[0] for line in lines if re.match(r"  [a-z-]+ +(trainer|engine) ", line)] == phases


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--why", "trainer.recompite"], "--why trainer.recompite: there is no such key"),
        (["--sole"], "plan does not know '--sole'"),
        (["--why", "model"], "--why model: is a section"),
        (["--why"], "--why needs a key: python -m rlscale plan --why trainer.recompute ..."),
        (["model.path=somebody/else"], "model.path=somebody/else: is neither downloaded nor one of the shipped models"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words, *GSM8K]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_every_shipped_option_with_a_hub_name_has_its_config_beside_it() -> None:
    options = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (conf_dir() / "model").glob("*.yaml"))
    assert published().keys() == {option["path"] for option in options if option.get("path") is not None}


@pytest.mark.parametrize("name", sorted(published()))
def test_stages_hold_all_parameters_of_a_model_once(name: str) -> None:
    config = complete(published()[name])
    shape = ModelShape.of(config)
    assert shape.parameters == parameter_count(config)
    layout = RankLayout(pipeline=2)
    stages = [StageWeights.of(shape, layout, stage).parameters for stage in range(2)]
    copied = shape.embedding if shape.tied else 0  # on the last stage, too
    assert sum(stages) == shape.parameters + copied


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3", "zai-org/GLM-4.5-Air"])
def test_a_trained_layer_that_predicts_further_lies_on_the_last_stage(name: str) -> None:
    config = complete(published()[name])
    trained, frozen = ModelShape.of(config, mtp=True), ModelShape.of(config)
    more = parameter_count(config, mtp=True) - parameter_count(config)
    assert trained.parameters == parameter_count(config, mtp=True) == frozen.parameters + more
    # A layer with its experts, three norms, and the matrix that joins two vectors.
    sparse = frozen.sparse.split + frozen.sparse.whole + frozen.experts * frozen.sparse.per_expert
    assert more == sparse + 3 * frozen.hidden + 2 * frozen.hidden**2
    layout, training = RankLayout(pipeline=2), Training(tokens=1024)
    (first, last), (_, without) = ([rank_memory(s, layout, training, n) for n in range(2)] for s in (trained, frozen))
    assert first == rank_memory(frozen, layout, training, 0)
    assert last.weights - without.weights == 2 * more
    assert last.gradients - without.gradients == 4 * more
    assert last.optimizer - without.optimizer == 12 * more
    assert last.activations - without.activations > 2 * frozen.embedding  # it is given the first stage's
