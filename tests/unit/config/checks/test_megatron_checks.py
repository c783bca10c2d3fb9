"""Options of Megatron that break a promise or are never read, and models it cannot be given, are one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.config.mixture import ARCHITECTURE, MOE
from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

KEY = "trainer.megatron"
SELECTIVE = "trainer.recompute=selective"
MODULES = f"{KEY}.recompute_modules"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{KEY}.hidden_dropout=0", f"{KEY}.attention_dropout=0.0", f"{KEY}.cuda_graph_impl=none"],
        [SELECTIVE, f"{MODULES}=[core_attn,mlp]"],
        [SELECTIVE, f"{MODULES}=[moe,moe_act,layernorm]", *MOE],
    ],
)
def test_what_changes_no_result_is_fine(problems: Problems, overrides: list[str]) -> None:
    assert problems(*overrides) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([f"{KEY}.hidden_dropout=0.1"], f"{KEY}.hidden_dropout=0.1: every pass would drop something else"),
        ([f"{KEY}.attention_dropout=1"], f"{KEY}.attention_dropout=1: every pass would drop something else"),
        ([f"{KEY}.attention_dropout=abc"], f"{KEY}.attention_dropout=abc: every pass would drop something else"),
        (["algo=ppo", f"{KEY}.hidden_dropout=0.1"], f"{KEY}.hidden_dropout=0.1: every pass would drop"),
        (["algo=ppo", f"critic.{KEY}.hidden_dropout=0.1"], f"critic.{KEY}.hidden_dropout=0.1: every pass would drop"),
        ([f"{KEY}.mtp_num_layers=1"], f"{KEY}.mtp_num_layers=1: set trainer.mtp=trained instead"),
        ([f"{KEY}.cuda_graph_impl=local"], f"{KEY}.cuda_graph_impl=local: a graph has one size, and micro-batches"),
        ([f"{KEY}.enable_cuda_graph=true"], f"{KEY}.enable_cuda_graph=true: a graph has one size"),
        (
            [f"{MODULES}=[core_attn]"],
            f"{MODULES}=[core_attn] is read only with trainer.recompute=selective; set that, or leave it out",
        ),
        (
            ["trainer.recompute=full", f"{MODULES}=[foo]"],
            f"{MODULES}=[foo] is read only with trainer.recompute=selective",
        ),
        (
            ["algo=ppo", f"{MODULES}=[core_attn]"],
            f"{MODULES}=[core_attn] is read only with trainer.recompute=selective",
        ),
        (
            [SELECTIVE, f"{MODULES}=[foo]"],
            f"{MODULES}=[foo]: four_heads has no foo to compute again; known are core_attn, mlp",
        ),
        ([SELECTIVE, f"{MODULES}=[moe]"], f"{MODULES}=[moe]: four_heads has no moe to compute again; known are core"),
        (
            [SELECTIVE, f"{MODULES}=[core_attn,mlp]", *MOE],
            f"{MODULES}=[core_attn,mlp]: four_heads has no mlp to compute again; known are core_attn, layernorm, moe",
        ),
        ([SELECTIVE, f"{MODULES}=[]"], f"{MODULES}=[]: must be a list of one or more of core_attn, mlp"),
        ([SELECTIVE, f"{MODULES}=mlp"], f"{MODULES}=mlp: must be a list of one or more of core_attn, mlp"),
        *(
            ([f"{KEY}.{name}={value}"], f"{KEY}.{name}: is set by the model's Hugging Face config (model.path)")
            for name, value in {
                "softmax_scale": 0.5,
                "softmax_type": "learnable",
                "rotary_interleaved": "true",
                "activation_func_clamp_value": 1.0,
                "glu_linear_offset": 1.0,
                "window_size": "[8,0]",
                "layernorm_zero_centered_gamma": "true",
                "no_rope_freq": 2,
                "qk_clip": "true",
            }.items()
        ),
    ],
)
def test_what_breaks_a_promise_or_is_never_read_is_one_line(
    problems: Problems, overrides: list[str], line: str
) -> None:
    found = problems(*overrides)
    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("attention_bias=true", "attention_bias=true is not supported for qwen3_moe"),
        (
            "rope_scaling={rope_type: longrope, factor: 4}",
            "rope scaling of type longrope is not supported for qwen3_moe",
        ),
        ("rope_parameters={rope_type: linear}", "rope_parameters.factor=None: must be a number above 0"),
        ("hidden_act=gelu", "hidden_act=gelu is not supported for qwen3_moe; only silu"),
        ("norm_topk_prob=false", "norm_topk_prob=false (also where it is not given) is not supported for qwen3_moe"),
        ("mlp_only_layers=[0]", "dense layers between those with experts (mlp_only_layers, decoder_sparse_step)"),
        ("decoder_sparse_step=2", "dense layers between those with experts (mlp_only_layers, decoder_sparse_step)"),
        ("num_experts_per_tok=9", "num_experts_per_tok=9 is above the 8 experts of a layer"),
        ("num_experts_per_tok=0", "num_experts_per_tok=0: must be a whole number above 0"),
        ("num_experts=0", "num_experts=0: must be a whole number above 0"),
    ],
)
def test_an_architecture_that_the_trainer_has_not_is_one_line(problems: Problems, given: str, line: str) -> None:
    found = problems(*MOE, f"{ARCHITECTURE}.{given}")
    assert len(found) == 1, found
    assert found[0].startswith(f"{ARCHITECTURE}: {line}")


def test_experts_may_have_the_name_that_transformers_5_gives_their_number(problems: Problems) -> None:
    assert problems(*(text.replace("num_experts=", "num_local_experts=") for text in MOE)) == []


def test_a_critic_of_a_family_that_transformers_cannot_read_one_of_is_refused(
    problems: Problems, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY["glm4_moe"], "vocab_size": 20}))
    critic = ("critic.model.name=own", f"critic.model.path={tmp_path}", "critic.model.create=null")
    (line,) = [line for line in problems("algo=ppo", *critic) if "token classifier" in line]
    assert line.startswith("critic.model: transformers has no token classifier of model_type=glm4_moe")


def test_the_architecture_of_a_critic_is_looked_at_too(problems: Problems, hf: Path, tmp_path: Path) -> None:
    architecture = json.loads((hf / "qwen3_0_6b" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**architecture, "attention_bias": True}))
    critic = ("critic.model.name=own", f"critic.model.path={tmp_path}", "critic.model.create=null")
    (line,) = [line for line in problems("algo=ppo", *critic) if "attention_bias" in line]
    assert line == f"critic.model.path={tmp_path}: attention_bias=true is not supported for qwen3"
