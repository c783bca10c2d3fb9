"""The layer that predicts a token further, trained: its loss, that nothing else feels it, layouts, and disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import layout_scenario
import numpy as np
import pytest
import scenarios
import torch
from layout_matrix import CP, DP, EP, LARGE_EPS, PP, SP, compare
from mtp_models import expected_loss, make_predicting
from rank_pool import RankFailed, RankPool
from safetensors.torch import load_file
from test_layouts import FP32_BOUNDS, assert_within
from tiny_models import DEEP
from training_data import divide, divide_for, make_batch, make_spec

from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import Mtp, Recompute, TrainerConfig
from rlscale.families.config_file import complete
from rlscale.families.tensors import is_kept
from rlscale.trainer.trainer_spec import TrainerSpec

FAMILIES = ["deepseek_v3", "glm4_moe", "qwen3_next"]
FORMS = [*FAMILIES, "glm4_moe_lite", "glm_moe_dsa"]
"""The families with such a layer; the last two have DeepSeek-V3's."""
SCALE = 0.25
CLIP = 0.05
"""Far below both gradient norms."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "TP 2 + SP, EP 2": SP | EP,
    "EP 2": EP | DP,
    "CP 2": CP,
    "PP 2": PP,
    "VPP 2": {"pipeline": 2, "virtual_pipeline": 2},
}
LAYER = f"model.layers.{DEEP}."
BEGINNINGS = (LAYER, "mtp.")
"""Of the names of the layer's tensors in folders."""
REFUSED = [("qwen3_next", "CP 2")]
"""Layouts that a family refuses with and without the layer."""


LAYOUTS_OF_FAMILIES = [(f, name) for f in FAMILIES for name in LAYOUTS if (f, name) not in REFUSED]


class Predicting:
    """A model of a family with such a layer, and what one rank makes of it."""

    def __init__(self, family: str, folder: Path, pool: RankPool) -> None:
        self._pool = pool
        self.folder = make_predicting(folder / family, family, num_hidden_layers=DEEP)
        self.one_rank = self.train({})[0]

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """The same with that layer left as it is."""
        return self.train({}, mtp=Mtp.frozen)[0]

    def spec(self, parallel: dict[str, Any], mtp: Mtp = Mtp.trained, **trainer: Any) -> TrainerSpec:
        """Of a trainer in this layout."""
        optim = OptimConfig(lr=1e-3, eps=LARGE_EPS, clip_grad=CLIP)
        options = TrainerConfig(mtp=mtp, mtp_loss_scale=SCALE, **trainer)
        return make_spec(self.folder, parallel=parallel, optim=optim, trainer=options)

    def train(self, parallel: dict[str, Any], mtp: Mtp = Mtp.trained, **trainer: Any) -> list[dict[str, Any]]:
        """Each rank's metrics of two iterations of a step, gradients after the first, weights; first log-probs."""
        spec = self.spec(parallel, mtp, **trainer)
        batch = make_batch(spec.algo)
        parts = divide_for(batch, spec)
        results = self._pool.run(layout_scenario.train, spec, [parts, parts], world_size=2 if parallel else 1)
        column = scenarios.whole_column(parts, batch, [result["logprobs"] for result in results])
        return [result | {"logprobs": column} for result in results]


Make = Callable[[str], Predicting]


@pytest.fixture(scope="module")
def predicting(pool: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """By family, made when first asked for."""
    folder = tmp_path_factory.mktemp("predicting")
    return cache(lambda family: Predicting(family, folder, pool))


@pytest.mark.parametrize("family", FORMS)
def test_loss_and_gradients_are_those_of_the_formula_row_by_row(family: str, predicting: Make) -> None:
    model = predicting(family)
    spec = model.spec({})
    expected = expected_loss(model.folder, make_batch(spec.algo), spec.temperature)
    metrics = model.one_rank["metrics"][0]
    assert metrics["mtp_loss"] == pytest.approx(expected.mean, rel=1e-6)
    assert len(expected.gradients) > 8
    assert metrics["mtp_grad_norm"] > CLIP
    clipped = SCALE * CLIP / (metrics["mtp_grad_norm"] + 1e-6)  # by its own norm, as Megatron clips
    for name, gradient in expected.gradients.items():
        bound = 1e-5 * clipped * np.abs(gradient).max()
        np.testing.assert_allclose(
            model.one_rank["gradients"][name], clipped * gradient, rtol=0, atol=bound, err_msg=name
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_policys_gradients_metrics_and_weights_are_bit_for_bit_those_without(family: str, predicting: Make) -> None:
    trained, frozen = predicting(family).one_rank, predicting(family).frozen
    assert {name for name in trained["gradients"] if not name.startswith(BEGINNINGS)} == set(frozen["gradients"])
    for kind in ("gradients", "weights"):
        for name, value in frozen[kind].items():
            np.testing.assert_array_equal(trained[kind][name], value, err_msg=name)
    for ours, without in zip(trained["metrics"], frozen["metrics"], strict=True):
        assert all(ours[name] == without[name] for name in ("loss", "grad_norm", "entropy"))
    assert frozen["metrics"][0]["grad_norm"] > CLIP
    assert "mtp_loss" not in frozen["metrics"][0]


@pytest.mark.parametrize(("family", "layout"), LAYOUTS_OF_FAMILIES)
def test_every_layout_gives_the_loss_gradients_and_weights_of_one_rank(
    family: str, layout: str, predicting: Make
) -> None:
    model = predicting(family)
    own = [x for name, x in model.one_rank["gradients"].items() if name.startswith(BEGINNINGS)]
    assert any(np.abs(x).max() > 1e-4 for x in own)
    for result in model.train(LAYOUTS[layout]):
        assert_within(compare(result, model.one_rank), FP32_BOUNDS)
        for ours, one_rank in zip(result["metrics"], model.one_rank["metrics"], strict=True):
            for name in ("mtp_loss", "mtp_grad_norm"):
                assert ours[name] == pytest.approx(one_rank[name], rel=1e-6)


def test_recomputed_activations_and_a_sharded_optimizer_change_nothing(predicting: Make) -> None:
    model = predicting("glm4_moe")
    for result in model.train(EP | DP, recompute=Recompute.full, distributed_optimizer=True):
        assert_within(compare(result, model.one_rank), FP32_BOUNDS)


def test_a_checkpoint_of_tensor_parallel_ranks_continues_on_pipeline_stages_and_exports_are_whole(
    pool: RankPool, predicting: Make, tmp_path: Path
) -> None:
    """With embedding and head as they are trained in the layer's copies, too."""
    model = predicting("deepseek_v3")
    iterations = [divide(make_batch(model.spec({}).algo, seed=seed), 1) for seed in range(2)]
    saved, target = tmp_path / "checkpoint", tmp_path / "export"
    arguments = model.spec(SP | EP), iterations, str(saved), False, str(target)
    straight = pool.run(scenarios.train_and_save_halfway, *arguments, world_size=2)[0]["weights"]
    resumed = pool.run(scenarios.resume, model.spec(PP), iterations[1:], str(saved), world_size=2)[0]["weights"]
    assert resumed.keys() == straight.keys()
    for name, weight in straight.items():
        np.testing.assert_allclose(resumed[name], weight, atol=5e-6, err_msg=name)
    with pytest.raises(RankFailed, match=r"was saved with trainer\.mtp=trained, but this run has trainer\.mtp=frozen"):
        pool.run(scenarios.resume, model.spec({}, Mtp.frozen), [], str(saved), world_size=1)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (target, model.folder))
    assert ours.keys() == theirs.keys()
    config = complete(json.loads((model.folder / "config.json").read_text()))
    moved = [name for name in theirs if is_kept(name, config) and not torch.equal(ours[name], theirs[name])]
    assert f"{LAYER}eh_proj.weight" in moved
    assert torch.equal(ours[f"{LAYER}embed_tokens.weight"], ours["model.embed_tokens.weight"])
    assert torch.equal(ours[f"{LAYER}shared_head.head.weight"], ours["lm_head.weight"])
    assert f"{LAYER}embed_tokens.weight" in moved


def test_a_folder_without_the_layer_or_with_another_embedding_in_it_is_refused(
    pool: RankPool, predicting: Make, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    model = predicting("glm4_moe")
    tensors = load_file(model.folder / "model.safetensors")
    other = tensors | {f"{LAYER}embed_tokens.weight": tensors["model.embed_tokens.weight"] + 1}
    none = {name: x for name, x in tensors.items() if not name.startswith(LAYER)}
    for number, (changed, line) in enumerate(
        [(other, r"embed_tokens.weight is not model.embed_tokens.weight"), (none, r"has no tensor model.layers.4.")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text((model.folder / "config.json").read_text())
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        spec = replace(model.spec({}), init_path=str(folder))
        with pytest.raises(RankFailed, match=line):
            pool.run(scenarios.train, spec, [], world_size=1)
