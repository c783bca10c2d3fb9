"""Kimi-K2 is DeepSeek-V3 under a name of its own: read as that, and written so for those who know no other name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rlscale.data.folders.companions import Companions
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.config_file import complete, differences, problems
from rlscale.families.served_form import ServedForm
from tests.unit.families.folders import TINY, write

KIMI = {
    **TINY["deepseek_v3"],
    "model_type": "kimi_k2",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "n_group": 1,
}


def test_the_config_is_that_of_the_architecture_under_its_known_name() -> None:
    known = {**KIMI, "model_type": "deepseek_v3"}
    assert list(problems(KIMI)) == []
    assert complete(KIMI) == complete(known)
    assert differences(KIMI, known) == []


def test_engines_and_exports_get_the_known_name_and_no_code(tmp_path: Path) -> None:
    folder = write(tmp_path / "kimi", KIMI)

    def refuse(model: Path, target: Path, dtype: str, form: ServedForm) -> None:
        raise AssertionError("its weights are numbers")

    served = served_folder(Companions(str(folder), str(folder)), "kimi", "float32", tmp_path / "scratch", refuse)
    said = json.loads((served / "config.json").read_text())
    assert said["model_type"] == "deepseek_v3"
    assert "auto_map" not in said
    assert (served / "model.safetensors").resolve() == folder / "model.safetensors"
    os.utime(folder / "model.safetensors", (1, 1))  # written anew, as large as before
    other = served_folder(Companions(str(folder), str(folder)), "kimi", "float32", tmp_path / "scratch", refuse)
    assert other != served
    plain = write(tmp_path / "plain", TINY["deepseek_v3"])
    companions = Companions(str(plain), str(plain))
    assert served_folder(companions, "plain", "float32", tmp_path / "scratch", refuse) == plain
