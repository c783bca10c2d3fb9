"""What cannot be computed with the same bits by trainer and engine is refused before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.checks.same_bits import CHANGE_ARITHMETIC
from rlscale.config.compose import compose
from rlscale.config.cpu_threads import engine_threads, trainer_threads
from rlscale.config.errors import ConfigError
from rlscale.config.passthrough import known_options
from rlscale.families import FAMILIES
from rlscale.families.bitwise import why_not_bitwise
from rlscale.families.config_file import complete
from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

ASKED = "run.bitwise=true"

WIDE = {"qwen3_moe": {"moe_intermediate_size": 32}, "glm4_moe": {"moe_intermediate_size": 32, "n_routed_experts": 32}}
"""What makes the sizes of tiny mixtures multiples of 32, as those of published ones are."""


def about_bits(lines: list[str]) -> list[str]:
    return [line for line in lines if ASKED in line]


def test_the_default_run_can_be_bitwise(problems: Problems) -> None:
    assert problems(ASKED) == []
    assert problems(ASKED, "model.dtype=bfloat16", "parallel.data=2", "rollout.engines=2") == []


def test_each_process_has_one_thread() -> None:
    config = compose("arithmetic", [ASKED, "trainer.threads=null", "rollout.threads_per_engine=null"])
    assert (trainer_threads(config), engine_threads(config)) == (1, 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_that_are_summed_otherwise_by_engines_are_refused(
    problems: Problems, tmp_path: Path, family: str
) -> None:
    given = {**TINY[family], **WIDE.get(family, {})}
    (tmp_path / "config.json").write_text(json.dumps(given))
    found = about_bits(problems("model.create=null", f"model.path={tmp_path}", ASKED))
    reason = why_not_bitwise(FAMILIES[family], complete(given))
    assert [line for line in found if "leave run.bitwise out" in line] == (
        [] if reason is None else [f"{ASKED} with a model of {family}: {reason}; leave run.bitwise out"]
    )


def test_dense_families_and_mixtures_with_ordinary_attention_can() -> None:
    reasons = {
        name: why_not_bitwise(FAMILIES[name], complete({**TINY[name], **WIDE.get(name, {})})) for name in FAMILIES
    }
    able = {name for name, reason in reasons.items() if reason is None}
    assert able == {"qwen2", "qwen3", "qwen3_moe", "llama", "glm4", "glm4_moe"}


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("deepseek_v3", "an engine attends to compressed keys and the trainer to whole ones, which round differently"),
        ("qwen3_next", "a gated delta net is summed in chunks by the trainer and token by token by an engine"),
    ],
)
def test_attention_that_trainer_and_engine_compute_in_two_ways_is_named(family: str, reason: str) -> None:
    assert why_not_bitwise(FAMILIES[family], complete(TINY[family])) == reason


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("glm4_moe", {"n_routed_experts": 4}, "it has 4 experts, no multiple of 32"),
        ("glm4_moe", {"moe_intermediate_size": 8}, "it has layers of 8, no multiple of 32"),
        ("qwen3_moe", {"moe_intermediate_size": 8}, "it has layers of 8, no multiple of 32"),
        ("qwen3", {"intermediate_size": 40}, "it has layers of 40, no multiple of 32"),
    ],
)
def test_sizes_that_are_computed_in_pieces_are_refused(family: str, changes: dict[str, int], words: str) -> None:
    reason = why_not_bitwise(FAMILIES[family], complete({**TINY[family], **WIDE.get(family, {}), **changes}))
    assert reason is not None
    assert reason.startswith(words)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("parallel.tensor=2", "parallel.tensor=2: a sum over ranks has another order"),
        ("parallel.context=2", "parallel.context=2: a sum over ranks has another order"),
        ("trainer.threads=2", "trainer.threads=2: a sum over threads has another order"),
        ("rollout.threads_per_engine=2", "rollout.threads_per_engine=2: a sum over threads has another order"),
        ("model.dtype=float16", "model.dtype=float16: this is done in float32 and bfloat16 only"),
        ("rollout.weights=int4", "rollout.weights=int4: engines would hold other weights than the trainer"),
        ("model.lora.rank=4", "model.lora: engines compute with merged weights"),
        ("rollout.engine_urls=[http://127.0.0.1:1]", "rollout.engine_urls: engines that somebody else started"),
        ("cluster.device=cuda", "cluster.device=cuda: on GPUs this has not been made: Megatron's batch-invariant"),
        ("rollout.quantised_activations=true", "quantised_activations=true: engines would quantise the inputs"),
        ("rollout.speculation.algorithm=ngram", "speculation.algorithm=ngram: log-probs of tokens that a draft"),
        ("rollout.engine_groups.reads.role=prefill", "rollout.engine_groups.reads.role=prefill: it has not been tried"),
        ("rollout.engine_groups.writes.role=decode", "rollout.engine_groups.writes.role=decode: it has not been tried"),
        ("rollout.replay=/there", "rollout.replay=/there: stored rollouts may be of engines without it"),
        ("rollout.sglang.kv_cache_dtype=bfloat16", "rollout.sglang.kv_cache_dtype=bfloat16: changes how an engine"),
        ("rollout.sglang.enable_fp32_lm_head=true", "rollout.sglang.enable_fp32_lm_head=True: changes how an engine"),
        (
            "rollout.engine_groups.one.sglang.attention_backend=triton",
            "rollout.engine_groups.one.sglang.attention_backend=triton: changes how an engine computes",
        ),
        ("rollout.top_p=0.9", "rollout.top_p=0.9: log-probs have the same bits over the whole vocabulary"),
        ("rollout.top_k=8", "rollout.top_k=8: log-probs have the same bits over the whole vocabulary"),
    ],
)
def test_what_gives_other_bits_is_refused_by_name(problems: Problems, option: str, words: str) -> None:
    assert any(words in line for line in about_bits(problems(ASKED, option)))
    assert about_bits(problems(option)) == []


def test_options_that_change_nothing_of_the_arithmetic_are_left_alone(problems: Problems) -> None:
    group = "rollout.engine_groups.one.sglang.max_running_requests=8"
    assert about_bits(problems(ASKED, "rollout.sglang.chunked_prefill_size=64", group)) == []


def test_every_refused_option_is_one_of_sglangs() -> None:
    known = known_options("server")
    assert known is not None
    assert {*CHANGE_ARITHMETIC} <= known.keys()


def test_quantised_engines_are_allowed_beside_a_trainer_that_rounds_alike(problems: Problems) -> None:
    assert about_bits(problems(ASKED, "rollout.weights=int4", "trainer.fake_quant=true")) == []


def test_supervised_training_has_no_use_for_it() -> None:
    with pytest.raises(ConfigError) as refused:
        check(compose("arithmetic_sft", [ASKED]))
    assert any("run.bitwise" in line and "supervised" in line for line in refused.value.problems)
