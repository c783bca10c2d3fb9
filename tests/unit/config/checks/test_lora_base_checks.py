"""Where the base of adapters can be kept as codes and scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.families.config_file import complete

KEPT = "model.lora={base: int4}"


@pytest.mark.parametrize("form", ["int4", "mxfp8"])
def test_the_tiny_models_linears_are_kept_in_forms_of_rows(form: str, problems: Callable[..., list[str]]) -> None:
    assert problems(f"model.lora={{base: {form}}}") == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.lora={base: fp8_block}"], "model.lora.base=fp8_block: its scales reach over rows of several linears"),
        (["model.lora={base: fp8_tensor}"], "model.lora.base=fp8_tensor: its scales reach over rows of several"),
        ([KEPT, "weights.lora=adapter"], "model.lora.base=int4: with weights.lora=adapter engines hold the base as it"),
        ([KEPT, "run.generate_only=true"], "model.lora.base=int4: with run.generate_only=true engines serve a folder"),
        (
            [KEPT, "algo.distil_coef=0.1", "teacher.path=there"],
            "model.lora.base=int4: a teacher's weights may take the",
        ),
    ],
)
def test_a_base_that_cannot_be_kept_is_refused(
    problems: Callable[..., list[str]], overrides: list[str], line: str
) -> None:
    assert any(found.startswith(line) for found in problems(*overrides))


@pytest.mark.parametrize(
    ("family", "line"),
    [
        ("deepseek_v3", "model.lora.base=int4: the attention of a deepseek_v3 reads its weights in other ways"),
        ("qwen3", "model.lora.base=int4: q_proj has 16 columns on each rank, which 32 does not divide"),
    ],
)
def test_a_model_whose_linears_cannot_be_kept_is_refused(plain_recipe: str, family: str, line: str) -> None:
    fixture = Path(__file__).parents[3] / "fixtures" / "families" / f"{family}.json"
    with pytest.raises(ConfigError) as refused:
        check(compose(plain_recipe, [KEPT]), complete(json.loads(fixture.read_text())))
    assert any(found.startswith(line) for found in refused.value.problems)
