"""A folder that a run's engines start from is nobody's to remove while the run lives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlscale.config.composition.compose import compose
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.leased_folders import remove_unused
from rlscale.run.sides.served_folders import ServedFolders
from tests.unit.families.folders import TINY


@pytest.fixture
def model(tmp_path: Path) -> Companions:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY["qwen3"]))
    save_file({"one": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return Companions(str(folder), str(folder))


def test_one_that_was_made_stays_until_the_run_ends(model: Companions, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    served = ServedFolders(tmp_path / "scratch")
    made = served.of(compose(), replace(model, tokenizer_folder=str(tokenizer)))
    assert made != Path(model.model_folder)
    assert remove_unused(made.parent, keep=0) == []
    served.close()
    assert remove_unused(made.parent, keep=0) == [made.name]


def test_the_models_own_folder_is_used_as_it_is(model: Companions, tmp_path: Path) -> None:
    assert ServedFolders(tmp_path / "scratch").of(compose(), model) == Path(model.model_folder)
    assert not (tmp_path / "scratch").exists()
