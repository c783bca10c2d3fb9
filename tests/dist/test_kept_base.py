"""A base that is kept as codes and scales is the model that these are worth, bit for bit, in less memory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapter_scenarios
import numpy as np
import pytest
import scenarios
from rank_pool import RankFailed, RankPool
from safetensors.torch import load_file, save_file
from test_adapters import LORA, OF_EXPERTS, spec_of, train, worst
from training_data import divide_for, make_batch

from rlscale.config.schema.trainer_config import Recompute
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.weights.encode import encoding_of


def worth(folder: Path, target: Path, form: WeightForm) -> Path:
    """The model in another folder, with what the codes are worth in the place of its linears."""
    served = ServedForm(form)
    encoding = encoding_of(served)
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    tensors = {name: encoding.rounded(t) if served.quantises(name) else t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def kept(pool: RankPool, models: dict[str, Path]) -> Any:
    """Results of one rank with a kept base."""
    (result,) = train(pool, spec_of(models["dense"], replace(LORA, base=WeightForm.int4), {}))
    return result


@pytest.mark.parametrize(("kind", "form"), [("dense", WeightForm.int4), ("moe", WeightForm.mxfp8)])
def test_training_on_it_is_training_on_what_it_is_worth_bit_for_bit(
    kind: str, form: WeightForm, kept: Any, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    lora = OF_EXPERTS if kind == "moe" else LORA
    got = kept if kind == "dense" else train(pool, spec_of(models[kind], replace(lora, base=form), {}))[0]
    (expected,) = train(pool, spec_of(worth(models[kind], tmp_path / kind, form), lora, {}))
    for passes in ("before", "after"):
        np.testing.assert_array_equal(got[passes], expected[passes])
    for tensors in ("gradients", "tensors", "base", "weights"):
        for name, tensor in expected[tensors].items():
            np.testing.assert_array_equal(got[tensors][name], tensor, err_msg=f"{tensors} {name}")
    whole = load_file(models[kind] / "model.safetensors")
    assert max(np.abs(got["base"][name] - tensor.numpy()).max() for name, tensor in whole.items()) > 1e-3


def test_it_does_not_depend_on_the_layout(kept: Any, pool: RankPool, models: dict[str, Path]) -> None:
    parallel = {"tensor": 2, "sequence": True}
    spec = spec_of(models["dense"], replace(LORA, base=WeightForm.int4), parallel, recompute=Recompute.full)
    for got in train(pool, spec, 2):
        assert worst(got["base"], kept["base"]) == 0
        assert worst(got["gradients"], kept["gradients"]) < 1e-5
        assert worst(got["weights"], kept["weights"]) < 1e-5


@pytest.mark.parametrize(("form", "share"), [(WeightForm.int4, 0.625 / 4), (WeightForm.mxfp8, (1 + 1 / 32) / 4)])
def test_linears_take_the_memory_of_their_codes(
    form: WeightForm, share: float, pool: RankPool, models: dict[str, Path]
) -> None:
    (plain,) = pool.run(adapter_scenarios.memory, spec_of(models["dense"], LORA, {}), world_size=1)
    spec = spec_of(models["dense"], replace(LORA, base=form), {})
    (got,) = pool.run(adapter_scenarios.memory, spec, world_size=1)
    assert plain["codes"] == 0
    assert got["codes"] == pytest.approx(share * plain["linears"], rel=0.02)
    assert got["linears"] < 0.01 * plain["linears"]
    assert got["others"] == plain["others"]


def test_a_checkpoint_goes_on_with_the_same_base_only(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    spec, folder = spec_of(models["dense"], replace(LORA, base=WeightForm.int4), {}), str(tmp_path / "saved")
    iterations = [divide_for(make_batch(spec.algo, seed=seed), spec) for seed in range(4)]
    (straight,) = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=1)
    (resumed,) = pool.run(scenarios.resume, spec, iterations[2:], folder, world_size=1)
    for name, weight in straight["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)
    plain = spec_of(models["dense"], LORA, {})
    with pytest.raises(
        RankFailed, match=r"holds adapters with base_form=int4, this run has model\.lora\.base=as_trained"
    ):
        pool.run(scenarios.resume, plain, [], folder, world_size=1)
