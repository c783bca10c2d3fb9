"""`model=` takes a folder or a hub name of any supported architecture, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.sweep_expansion import expand
from rlscale.config.errors import ConfigError
from rlscale.families import FAMILIES
from tests.unit.families.folders import TINY

SHORT = ["rollout.max_prompt_tokens=20", "rollout.max_response_tokens=20", "weights.canary_tokens=20"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_folder_without_an_option_of_its_own_is_a_model(family: str, tmp_path: Path, plain_recipe: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY[family]))
    config = compose(plain_recipe, [f"model={folder}", *SHORT, f"model.tokenizer={tmp_path}"])
    check(config)
    assert (config.model.path, config.model.name, config.model.create) == (str(folder), "mine", None)
    assert config.run.groups["model"] == "any"
    again = compose(plain_recipe, [f"model={folder}", "model.name=other", "model.dtype=float32"])
    assert (again.model.name, again.model.path, again.model.dtype.value) == ("other", str(folder), "float32")
    before = compose(plain_recipe, ["model.name=other", f"model={folder}", "model.dtype=float32"])
    assert (before.model.name, before.model.path, before.model.dtype.value) == ("other", str(folder), "float32")


def test_a_folder_here_may_have_a_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("qwen3_4b").mkdir()
    assert compose(None, ["model=mine"]).model.path == str(tmp_path / "mine")
    assert compose(None, ["model=qwen3_4b"]).model.path == "Qwen/Qwen3-4B"  # an option is meant before a folder


def test_a_hub_name_is_its_option_where_it_has_one() -> None:
    known, other = compose(None, ["model=zai-org/GLM-4.5-Air"]), compose(None, ["model=owner/model-7B"])
    assert (known.model.name, known.model.tool_parser) == ("glm4_5_air", "glm45")
    assert (other.model.name, other.model.path) == ("model-7B", "owner/model-7B")
    assert other.model.parameters is None


def test_several_are_a_sweep_and_neither_an_option_nor_a_folder_is_refused() -> None:
    runs = expand(["model=owner/a,qwen3_4b"])
    assert [compose(None, run).model.path for run in runs] == ["owner/a", "Qwen/Qwen3-4B"]
    with pytest.raises(ConfigError, match=r"model=qwen3_4bb: no such option; did you mean qwen3_4b"):
        compose(None, ["model=qwen3_4bb"])
