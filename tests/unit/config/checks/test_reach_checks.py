"""Sequences that a model's attention does not see whole are refused before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.locations import recipes_dir
from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

PROMPT = "rollout.max_prompt_tokens=100"
WINDOWS = {"use_sliding_window": True, "sliding_window": 192, "max_window_layers": 1, "max_position_embeddings": 256}
ABOUT = "that the attention of"


def write(folder: Path, family: str = "glm_moe_dsa", **changes: Any) -> str:
    """The path of a folder of a tiny model whose attention sees 192 tokens at most, of 256 positions."""
    (folder / "config.json").write_text(json.dumps({**TINY[family], **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["rollout.max_response_tokens=92"], None),
        (
            ["rollout.max_response_tokens=93"],
            "rollout.max_prompt_tokens=100 + rollout.max_response_tokens=93 is above the 192 tokens that the attention "
            "of four_heads sees at most (index_topk); longer sequences are not supported, lower this",
        ),
        (
            ["rollout.max_response_tokens=50", "eval.max_response_tokens=93"],
            "rollout.max_prompt_tokens=100 + eval.max_response_tokens=93 is above the 192 tokens",
        ),
        (
            ["rollout.max_response_tokens=50", "weights.canary_tokens=193"],
            "weights.canary_tokens=193 is above the 192 tokens",
        ),
    ],
)
def test_prompt_and_response_and_the_canary_stay_within_what_attention_sees(
    problems: Problems, tmp_path: Path, overrides: list[str], line: str | None
) -> None:
    lines = problems("model.create=null", f"model.path={write(tmp_path)}", PROMPT, *overrides)
    found = [one for one in lines if ABOUT in one]
    assert len(found) == (line is not None)
    assert line is None or found[0].startswith(line)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe"])
def test_windows_are_attention_to_all_tokens_as_long_as_they_hold_a_sequence(
    problems: Problems, tmp_path: Path, family: str
) -> None:
    given = ["model.create=null", f"model.path={write(tmp_path, family, **WINDOWS)}", PROMPT]
    assert [one for one in problems(*given, "rollout.max_response_tokens=92") if ABOUT in one] == []
    (found,) = [one for one in problems(*given, "rollout.max_response_tokens=93") if ABOUT in one]
    assert "is above the 192 tokens that the attention of four_heads sees at most (sliding_window); longer" in found


def test_a_teacher_is_held_to_its_own_limit(problems: Problems, tmp_path: Path) -> None:
    longer = ["rollout.max_response_tokens=93", "eval.max_response_tokens=200", "weights.canary_tokens=193"]
    teacher = ["algo=opd", f"teacher.path={write(tmp_path)}", PROMPT, *longer]
    (found,) = [one for one in problems(*teacher) if ABOUT in one]
    assert found.startswith("teacher: rollout.max_prompt_tokens=100 + rollout.max_response_tokens=93 is above the 192")


def longer_recipe(folder: Path, name: str, response: int) -> str:
    """A shipped recipe of the stage before a run, with longer sequences; its path."""
    text = (recipes_dir() / f"{name}.yaml").read_text()
    text = text.replace("max_prompt_tokens: 16", "max_prompt_tokens: 100")
    (folder / f"{name}.yaml").write_text(text.replace("max_response_tokens: 5", f"max_response_tokens: {response}"))
    return str(folder / f"{name}.yaml")


@pytest.mark.parametrize(("response", "refused"), [(92, False), (93, True)])
def test_a_warm_start_is_held_to_the_limit_of_the_runs_model(
    problems: Problems, tmp_path: Path, response: int, refused: bool
) -> None:
    stage = longer_recipe(tmp_path, "arithmetic_sft", response)
    model = ["model.create=null", f"model.path={write(tmp_path)}", PROMPT, "rollout.max_response_tokens=9"]
    found = [one for one in problems(*model, f"warm_start.recipe={stage}") if ABOUT in one]
    assert len(found) == refused
    assert not refused or found[0].startswith(
        f"warm_start.recipe={stage}: rollout.max_prompt_tokens=100 + rollout.max_response_tokens=93 is above the 192"
    )


@pytest.mark.parametrize(
    ("changes", "overrides", "refused"),
    [
        ({}, [], True),
        ({}, ["rollout.models.judge.sglang.context_length=193"], True),
        ({}, ["rollout.models.judge.sglang.context_length=192"], False),
        ({"max_position_embeddings": 192}, [], False),  # which are an engine's limit
    ],
)
def test_engines_of_a_model_beside_the_policy_refuse_requests_beyond_its_limit(
    problems: Problems, tmp_path: Path, changes: dict[str, int], overrides: list[str], refused: bool
) -> None:
    judge = f"rollout.models.judge.path={write(tmp_path, **changes)}"
    found = [one for one in problems(judge, *overrides) if "judge" in one]
    assert (
        found
        == [
            "rollout.models.judge: the model's attention sees 192 tokens at most (index_topk), which its engines do "
            "not heed; set rollout.models.judge.sglang.context_length=192, so that they refuse longer requests"
        ]
        * refused
    )


def test_engines_on_gpus_have_glm5s_own_attention_but_no_windows(problems: Problems, tmp_path: Path) -> None:
    gpus = ["model=qwen3_0_6b", "cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=3"]
    for family, refused in (("glm_moe_dsa", False), ("qwen2", True)):
        windows = WINDOWS if family == "qwen2" else {}
        judge = f"rollout.models.judge.path={write(tmp_path, family, **windows)}"
        found = [one for one in problems(*gpus, "rollout.engines=1", judge) if "which its engines do not heed" in one]
        assert len(found) == refused
