"""Sequences that sparse attention does not see whole are refused before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

PROMPT = "rollout.max_prompt_tokens=100"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a tiny model whose attention sees 192 tokens at most, of 256 positions."""
    (tmp_path / "config.json").write_text(json.dumps(TINY["glm_moe_dsa"]))
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["rollout.max_response_tokens=92"], None),
        (
            ["rollout.max_response_tokens=93"],
            "rollout.max_prompt_tokens=100 + rollout.max_response_tokens=93 is above the 192 tokens up to which the "
            "sparse attention of four_heads sees all of them (index_topk); longer sequences are not supported, lower "
            "this",
        ),
        (
            ["rollout.max_response_tokens=50", "eval.max_response_tokens=93"],
            "rollout.max_prompt_tokens=100 + eval.max_response_tokens=93 is above the 192 tokens",
        ),
        (
            ["rollout.max_response_tokens=50", "weights.canary_tokens=193"],
            "weights.canary_tokens=193 is above the 192 tokens up to which the sparse attention",
        ),
    ],
)
def test_prompt_and_response_and_the_canary_stay_within_what_attention_sees(
    problems: Problems, folder: Path, overrides: list[str], line: str | None
) -> None:
    lines = problems("model.create=null", f"model.path={folder}", PROMPT, *overrides)
    found = [one for one in lines if "sparse attention" in one]
    assert len(found) == (line is not None)
    assert line is None or found[0].startswith(line)


def test_a_teacher_with_sparse_attention_is_held_to_its_own_limit(problems: Problems, folder: Path) -> None:
    teacher = ["algo=opd", f"teacher.path={folder}", PROMPT, "rollout.max_response_tokens=93"]
    (found,) = [one for one in problems(*teacher) if "sparse attention" in one]
    assert found.startswith("teacher: rollout.max_prompt_tokens=100 + rollout.max_response_tokens=93 is above the 192")
