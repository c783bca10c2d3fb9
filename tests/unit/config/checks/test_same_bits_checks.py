"""What cannot be computed with the same bits by trainer and engine is refused before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.checks.same_bits import CHANGE_ARITHMETIC, CHANGE_FORWARD
from rlscale.config.composition.compose import compose
from rlscale.config.derived.cpu_threads import engine_threads, trainer_threads
from rlscale.config.errors import ConfigError
from rlscale.config.passthrough import known_options
from rlscale.families import FAMILIES
from rlscale.families.bitwise import why_not_bitwise
from rlscale.families.config_file import complete
from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

ROOT = Path(__file__).parents[4]

ASKED = "run.bitwise=true"

_EXPERTS = {"moe_intermediate_size": 32, "n_routed_experts": 32}
WIDE = {
    "qwen3_moe": {"moe_intermediate_size": 32},
    **dict.fromkeys(("glm4_moe", "deepseek_v3", "glm4_moe_lite", "glm_moe_dsa"), _EXPERTS),
}
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


def test_all_families_can_but_those_with_gated_delta_nets() -> None:
    reasons = {
        name: why_not_bitwise(FAMILIES[name], complete({**TINY[name], **WIDE.get(name, {})})) for name in FAMILIES
    }
    assert {name: reason for name, reason in reasons.items() if reason} == {
        "qwen3_next": "a gated delta net is summed in chunks by the trainer, and token by token by an engine that "
        "generates"
    }


def test_the_page_says_of_every_shipped_model_what_the_check_says() -> None:
    page = (ROOT / "docs" / "mismatch.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4
    ]
    said = {
        (family.strip("`"), model): verdict
        for family, models, verdict in rows
        if family.strip("`") in FAMILIES
        for model in re.findall("`([^`]+)`", models)
    }
    found = {}
    for file in (ROOT / "conf" / "model").glob("*.json"):
        config = complete(json.loads(file.read_text(encoding="utf-8")))
        family = str(config["model_type"])
        reason = why_not_bitwise(FAMILIES[family], config)
        found[family, file.stem] = "yes" if reason is None else f"no: {reason}"
    assert said == found


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
        ("rollout.sglang.rl_on_policy_target=fsdp", "rollout.sglang.rl_on_policy_target=fsdp: changes how an engine"),
        (
            "trainer.megatron.moe_router_dtype=fp64",
            "trainer.megatron.moe_router_dtype=fp64: changes how the trainer computes, and engines compute as before",
        ),
        (
            "trainer.megatron.moe_permute_fusion=true",
            "trainer.megatron.moe_permute_fusion=true: changes how the trainer",
        ),
        (
            "rollout.engine._target_=mine.Launcher",
            "rollout.engine._target_=mine.Launcher: only engines that rlscale starts compute as the trainer",
        ),
        ("trainer._target_=mine.Trainer", "trainer._target_=mine.Trainer: nobody knows how it computes; use rlscale"),
    ],
)
def test_what_gives_other_bits_is_refused_by_name(problems: Problems, option: str, words: str) -> None:
    assert any(words in line for line in about_bits(problems(ASKED, option)))
    assert about_bits(problems(option)) == []


@pytest.mark.parametrize("option", ["rollout.top_p=0.9", "rollout.top_k=8"])
def test_tokens_may_be_drawn_from_some_words(problems: Problems, option: str) -> None:
    assert about_bits(problems(ASKED, option)) == []


def test_options_that_change_nothing_of_the_arithmetic_are_left_alone(problems: Problems) -> None:
    group = "rollout.engine_groups.one.sglang.max_running_requests=8"
    assert about_bits(problems(ASKED, "rollout.sglang.chunked_prefill_size=64", group)) == []


def test_every_refused_option_is_one_of_sglangs_or_megatrons() -> None:
    for kind, refused in (("server", CHANGE_ARITHMETIC), ("transformer", CHANGE_FORWARD)):
        known = known_options(kind)
        assert known is not None
        assert {*refused} <= known.keys()


def test_quantised_engines_are_allowed_beside_a_trainer_that_rounds_alike(problems: Problems) -> None:
    assert about_bits(problems(ASKED, "rollout.weights=int4", "trainer.fake_quant=true")) == []


def test_supervised_training_has_no_use_for_it() -> None:
    with pytest.raises(ConfigError) as refused:
        check(compose("arithmetic_sft", [ASKED]))
    assert any("run.bitwise" in line and "supervised" in line for line in refused.value.problems)
