"""The folder in the form of the engines is written once for what is in it, and anew where anything is otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlscale.data.folders.companions import Companions
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.served_form import Int4Grid, ServedForm, WeightForm
from tests.unit.families.folders import TINY

INT4 = ServedForm(WeightForm.int4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY["qwen3"]))
    save_file({"one": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_it_is_made_once_for_each_form_and_anew_for_other_weights(model: Path, tmp_path: Path) -> None:
    written: list[ServedForm] = []

    def folder(form: ServedForm, dtype: str = "float32") -> Path:
        def write(source: Path, target: Path, kind: str, asked: ServedForm) -> None:
            assert (source, kind) == (model, dtype)
            written.append(asked)

        return served_folder(Companions(str(model), str(model)), "tiny", dtype, tmp_path / "scratch", write, form)

    first = folder(INT4)
    assert json.loads((first / "config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    assert folder(INT4) == first
    assert written == [INT4]
    others = [ServedForm(WeightForm.int4, group=64), ServedForm(WeightForm.int4, grid=Int4Grid.full)]
    others += [ServedForm(WeightForm.mxfp8)]
    assert len({first, *map(folder, others), folder(INT4, "bfloat16")}) == 5
    save_file({"one": np.zeros(4, np.float32)}, model / "model.safetensors")
    assert folder(INT4) != first
    assert written == [INT4, *others, INT4, INT4]
