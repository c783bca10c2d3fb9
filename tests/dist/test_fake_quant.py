"""Quantisation-aware training: the model computes with what engines hold, and the gradients move what is rounded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import driven
import numpy as np
import pytest
from rank_pool import RankPool
from safetensors.torch import load_file, save_file
from test_algorithms import assert_same

from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.families.served_form import Int4Grid, ServedForm, WeightForm
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.encode import encoding_of

FORMS = {
    "int4": ServedForm(WeightForm.int4, group=16),
    "int4, full grid": ServedForm(WeightForm.int4, group=16, grid=Int4Grid.full),
    "fp8_block": ServedForm(WeightForm.fp8_block),
    "fp8_tensor": ServedForm(WeightForm.fp8_tensor),
    "mxfp8": ServedForm(WeightForm.mxfp8),
}
ALGO = driven.shipped("grpo", steps_per_iteration=1, epochs_per_iteration=1)


def spec(models: dict[str, Path], form: ServedForm | None, kind: str = "dense", **options: Any) -> TrainerSpec:
    """With weights rounded to a form, or as they are."""
    given = replace(driven.spec_of(ALGO, models, kind, **options), served=form or ServedForm())
    return replace(given, trainer=TrainerConfig(fake_quant=form is not None))


def rounded(folder: Path, target: Path, form: ServedForm) -> Path:
    """The model in another folder, with the values of its codes for weights."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    encoding = encoding_of(form)
    tensors = {name: encoding.rounded(t) if form.quantises(name) else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_are_those_of_the_rounded_model_and_move_the_weights_that_are_rounded(
    form: ServedForm, kind: str, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    batch = driven.segmented(ALGO)
    (ours,) = pool.run(driven.train, spec(models, form, kind), [batch], world_size=1)
    of_codes = {**models, kind: rounded(models[kind], tmp_path / kind, form)}
    (theirs,) = pool.run(driven.train, spec(of_codes, None, kind), [batch], world_size=1)
    for name, gradient in theirs["gradients"].items():
        np.testing.assert_array_equal(ours["gradients"][name], gradient, err_msg=name)
    whole, codes = load_file(models[kind] / "model.safetensors"), load_file(of_codes[kind] / "model.safetensors")
    quantised = [name for name in whole if form.quantises(name)]
    assert quantised
    for name, weight in whole.items():
        moved, theirs_moved = ours["weights"][f"policy {name}"] - weight.numpy(), theirs["weights"][f"policy {name}"]
        np.testing.assert_allclose(moved, theirs_moved - codes[name].numpy(), atol=5e-7, err_msg=name)
    for name in quantised:  # otherwise nothing would have been rounded
        assert np.abs(whole[name].numpy() - codes[name].numpy()).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "parallel"),
    [
        ("dense", {"tensor": 2, "sequence": True}),
        ("deep", {"pipeline": 2}),
        ("moe", {"expert": 2, "data": 2}),
        ("moe", {"tensor": 2, "sequence": True, "expert": 1, "expert_tensor": 2}),
    ],
    ids=str,
)
def test_rounding_does_not_depend_on_the_layout(
    kind: str, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    """Groups of 16 columns, of which a tensor-parallel rank has a part; two iterations, so that moved weights too."""
    form, batches = FORMS["int4"], [driven.segmented(ALGO, seed) for seed in range(2)]
    (expected,) = pool.run(driven.train, spec(models, form, kind), batches, world_size=1)
    for got in pool.run(driven.train, spec(models, form, kind, parallel=parallel), batches, world_size=2):
        assert_same(got, expected)
