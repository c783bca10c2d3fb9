"""Each family on ranks: transformers' numbers, every tensor back as it was, and the same model in every layout."""

from __future__ import annotations

import json
import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import layout_scenario
import numpy as np
import pytest
import scenarios
import torch
from layout_matrix import CP, DP, EP, ETP, LARGE_EPS, PP, SP, VPP, compare
from rank_pool import RankFailed, RankPool
from routing_scenarios import with_experts
from safetensors.torch import load_file as load_torch
from test_layouts import FP32_BOUNDS, assert_within
from test_trainer import hf_logprobs
from tiny_models import DEEP, EXPERTS, make_of_family
from training_data import ALGORITHMS, divide, divide_for, make_batch, make_spec

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import RoutingReplay, TrainerConfig
from rlscale.families import FAMILIES
from rlscale.families.family import dense_layers
from rlscale.families.tensors import is_kept
from rlscale.trainer.trainer_spec import TrainerSpec
from tests.unit.weights.quantised_folders import FORMS, write_quantised

NEW = sorted(FAMILIES.keys() - {"qwen3", "qwen3_moe"})
"""The families that the other tests of this folder do not train."""

MIXTURES = [family for family in NEW if FAMILIES[family].experts]

BIASED = [family for family in MIXTURES if any(rule.frozen for rule in FAMILIES[family].rules)]

DENSE_LAYOUTS = {"TP 2 + SP": SP, "PP 2": PP, "VPP 2": VPP, "TP 2 + SP, VPP 2": SP | VPP}
MIXTURES_LAYOUTS = {"EP 2": EP | DP, "TP 2 + SP, EP 2": SP | EP, "TP 2 + SP, ETP 2": SP | ETP, "VPP 2": VPP}
"""Replayed experts and checkpoints go to two stages without virtual ones."""


def layouts(family: str) -> dict[str, dict[str, Any]]:
    """Those in which a family is held to one rank."""
    known = FAMILIES[family]
    return (MIXTURES_LAYOUTS if known.experts else DENSE_LAYOUTS) | ({} if known.delta_net else {"CP 2": CP})


LAYERS = 2
"""Layers of the tied model."""

ITERATIONS = [divide(make_batch(ALGORITHMS["grpo_kl"], seed=seed), 1) for seed in range(2)]


ROUNDING = {"glm4_moe_lite": 1e-6}
"""How much a row may change with others of its pack where an expert's product rounds by the number of its tokens."""


LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "glm_moe_dsa": ("index_topk", {}),
    "qwen2": ("sliding_window", {"use_sliding_window": True, "max_window_layers": 1}),
}
"""Of attention that sees a part of the tokens: the key that says how many, and what goes with it."""


class Trained:
    """A model of a family, and what one rank makes of it."""

    def __init__(self, family: str, folder: Path, pool: RankPool) -> None:
        self.family, self._pool = family, pool
        self.folder = make_of_family(folder / family, family, num_hidden_layers=DEEP)
        self.dense = dense_layers(json.loads((self.folder / "config.json").read_text()))
        self.one_rank = self.train({})[0]
        self.checkpoint, self.export = folder / f"{family}-checkpoint", folder / f"{family}-export"

    @cached_property
    def tensor_parallel(self) -> dict[str, Any]:
        """Two iterations on tensor- (and expert-)parallel ranks: weights after them, and log-probs of the first batch.

        The first leaves `checkpoint`, the second `export`.
        """
        spec = self.spec(SP | EP if FAMILIES[self.family].experts else SP)
        result: dict[str, Any] = self._pool.run(
            scenarios.train_and_save_halfway,
            spec,
            ITERATIONS,
            str(self.checkpoint),
            False,
            str(self.export),
            world_size=2,
        )[0]
        return result

    def spec(self, parallel: dict[str, Any], replay: RoutingReplay = RoutingReplay.none) -> TrainerSpec:
        """Of a trainer in this layout."""
        optim, trainer = OptimConfig(lr=1e-3, eps=LARGE_EPS, clip_grad=0.0), TrainerConfig(routing_replay=replay)
        return make_spec(self.folder, "grpo_kl", parallel=parallel, optim=optim, trainer=trainer)

    def train(self, parallel: dict[str, Any], replay: RoutingReplay = RoutingReplay.none) -> list[dict[str, Any]]:
        """Each rank's metrics, gradients and weights of an iteration of two steps, log-probs of the whole batch.

        With `replay` of a rollout, experts are as an engine gives them: zeros for layers that have none.
        """
        spec = self.spec(parallel, replay)
        batch = make_batch(spec.algo)
        if replay is RoutingReplay.rollout:
            batch = with_experts(batch, DEEP, EXPERTS["num_experts"])
            batch.column("routed_experts")[:, : self.dense] = 0
        parts = divide_for(batch, spec)
        ranks = math.prod(parallel.get(name, 1) for name in ("tensor", "pipeline", "context", "data"))
        results = self._pool.run(layout_scenario.train, spec, [parts], world_size=ranks)
        column = scenarios.whole_column(parts, batch, [result["logprobs"] for result in results])
        return [result | {"logprobs": column} for result in results]


@pytest.fixture(scope="module")
def trained(pool: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By family, made when first asked for."""
    folder, known = tmp_path_factory.mktemp("families"), {}

    def get(family: str) -> Trained:
        if family not in known:
            known[family] = Trained(family, folder, pool)
        return known[family]

    return get


@pytest.mark.parametrize("family", NEW)
def test_logprobs_of_packed_rows_are_those_of_transformers(family: str, trained: Any) -> None:
    model = trained(family)
    spec = model.spec({})
    batch = make_batch(spec.algo)
    assert np.abs(model.one_rank["logprobs"]).max() > 1.0
    theirs = hf_logprobs(model.folder, batch, spec.temperature)
    print(family, f"log-probs {np.abs(model.one_rank['logprobs'] - theirs).max():.1e} from transformers'")
    np.testing.assert_allclose(model.one_rank["logprobs"], theirs, atol=1e-5)


def test_linear_scaling_is_that_of_transformers(pool: RankPool, tmp_path: Path) -> None:
    scaling = {"rope_theta": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    spec = make_spec(make_of_family(tmp_path / "linear", "qwen3", **scaling))
    batch = make_batch(spec.algo)
    (column,) = pool.run(scenarios.logprobs, spec, divide(batch, 1), world_size=1)
    np.testing.assert_allclose(column, hf_logprobs(tmp_path / "linear", batch, spec.temperature), atol=1e-5)


@pytest.mark.parametrize(("family", "layout"), [(f, name) for f in NEW for name in layouts(f)])
def test_every_layout_gives_the_logprobs_losses_gradients_and_weights_of_one_rank(
    family: str, layout: str, trained: Any
) -> None:
    model = trained(family)
    for result in model.train(layouts(family)[layout]):
        differences = compare(result, model.one_rank)
        print(family, layout, differences)
        assert_within(differences, FP32_BOUNDS)


def test_a_folder_in_fp8_is_trained_and_exported_as_the_numbers_that_it_stands_for(
    trained: Any, pool: RankPool, tmp_path: Path
) -> None:
    """Scales in other files than their codes; the layer that is kept is quantised, too."""
    model = trained("deepseek_v3")
    config = json.loads((model.folder / "config.json").read_text())
    weights = load_torch(model.folder / "model.safetensors")
    numbers = write_quantised(tmp_path / "fp8", config, weights, FORMS["blocks of FP8"])
    spec = make_spec(tmp_path / "fp8", parallel=SP | EP)
    parts, target = divide(make_batch(spec.algo), 1), tmp_path / "export"
    written = pool.run(scenarios.train, spec, [], world_size=2)[0]["weights"]
    for name, weight in written.items():
        np.testing.assert_allclose(weight, numbers[name], rtol=1e-6, err_msg=name)
    pool.run(scenarios.train_and_export, spec, parts, str(target), world_size=2)
    assert json.loads((target / "config.json").read_text()) == config
    exported = load_torch(target / "model.safetensors")
    assert exported.keys() == numbers.keys()
    name = f"model.layers.{DEEP}.eh_proj.weight"
    assert torch.equal(exported[name], torch.from_numpy(numbers[name]).bfloat16())


@pytest.mark.parametrize("family", NEW)
def test_every_parameter_has_a_gradient(family: str, trained: Any) -> None:
    largest: dict[str, float] = {}
    for name, gradient in trained(family).one_rank["gradients"].items():
        any_expert = re.sub(r"experts\.\d+\.", "experts.", name)  # a few tokens do not reach all of them
        largest[any_expert] = max(largest.get(any_expert, 0.0), float(np.abs(gradient).max()))
    for name, value in largest.items():
        assert value > 1e-5 or name.endswith("e_score_correction_bias"), name  # which nothing trains


def test_names_and_shapes_agree_with_mbridge_where_it_knows_the_family(trained: Any, pool: RankPool) -> None:
    specs = {family: make_spec(trained(family).folder) for family in NEW}
    found = {family: pool.run(scenarios.mapping_of_mbridge, spec, world_size=1)[0] for family, spec in specs.items()}
    known = {family: differences for family, differences in found.items() if differences is not None}
    assert all(differences == {"weights": [], "config": {}} for differences in known.values()), known
    assert known.keys() >= {"deepseek_v3", "glm4_moe", "llama", "qwen2"}


@pytest.mark.parametrize("family", NEW)
def test_first_step_with_the_old_pass_has_ratio_one_and_no_kl(family: str, trained: Any, pool: RankPool) -> None:
    (metrics,) = pool.run(scenarios.passes, make_spec(trained(family).folder), world_size=1)
    assert metrics["forced"]["ratio_max"] == 1.0
    assert abs(metrics["forced"]["ppo_kl"]) <= 1e-8


@pytest.mark.parametrize("family", MIXTURES)
def test_an_engines_experts_are_replayed_behind_dense_layers_on_every_stage(family: str, trained: Any) -> None:
    model = trained(family)
    (one_rank,) = model.train({}, RoutingReplay.rollout)
    metrics = one_rank["metrics"][0]
    assert metrics["routing_replayed"] > 0.8
    assert metrics["routing_changed"] > 0.2
    assert (model.dense > 0) is ("first_k_dense_replace" in FAMILIES[family].keys)
    for result in model.train(PP, RoutingReplay.rollout):
        assert_within(compare(result, one_rank), FP32_BOUNDS)


@pytest.mark.parametrize("family", MIXTURES)
def test_the_choice_of_the_pass_for_old_logprobs_is_repeated_on_every_stage(family: str, trained: Any) -> None:
    for result in trained(family).train(PP, RoutingReplay.recorded):
        metrics = result["metrics"][0]
        assert metrics["routing_replayed"] == 1.0
        assert 0.0 < metrics["routing_changed"] < 0.2  # in the second step, by its own router


@pytest.mark.parametrize("family", BIASED)
def test_the_biases_of_routers_stay_float32_in_a_model_of_16_bits(family: str, trained: Any, pool: RankPool) -> None:
    folder = trained(family).folder
    spec = make_spec(folder, dtype=DType.bfloat16)
    weights = pool.run(scenarios.train, spec, [], world_size=1)[0]["weights"]
    written = load_torch(folder / "model.safetensors")
    names = [name for name in written if name.endswith("e_score_correction_bias")]
    assert len(names) == DEEP - trained(family).dense
    for name in names:
        assert not torch.equal(written[name].bfloat16().float(), written[name])
        np.testing.assert_array_equal(weights[name], written[name].numpy(), err_msg=name)


@pytest.mark.parametrize("family", NEW)
def test_rows_of_a_pack_do_not_see_each_other(family: str, trained: Any, pool: RankPool) -> None:
    model = trained(family)
    spec = model.spec({})
    batch = make_batch(spec.algo)
    row = slice(batch.offsets[1], batch.offsets[2])
    tokens = batch.column("tokens").copy()
    tokens[row] = (tokens[row] + 7) % 64
    columns = [
        pool.run(scenarios.logprobs, spec, divide(one, 1, max_tokens=4096), world_size=1)[0]
        for one in (batch, batch.with_column("tokens", tokens))
    ]
    changed = np.abs(columns[0] - columns[1])
    assert changed[row].max() > 0.01
    changed[row] = 0.0
    assert changed.max() <= ROUNDING.get(family, 0.0)


@pytest.mark.parametrize("family", LIMITS)
def test_attention_is_computed_up_to_what_it_sees_and_refused_beyond(
    family: str, pool: RankPool, tmp_path: Path
) -> None:
    key, changes = LIMITS[family]
    batch = make_batch(ALGORITHMS["grpo_kl"])
    longest = int(batch.lengths.max())
    enough, less = (
        make_spec(make_of_family(tmp_path / str(tokens), family, **changes, **{key: tokens}), "grpo_kl")
        for tokens in (longest, longest - 1)
    )
    (column,) = pool.run(scenarios.logprobs, enough, divide(batch, 1), world_size=1)
    np.testing.assert_allclose(column, hf_logprobs(tmp_path / str(longest), batch, enough.temperature), atol=1e-5)
    with pytest.raises(RankFailed, match=rf"a sequence has {longest} tokens, .* sees {longest - 1} at most \({key}\)"):
        pool.run(scenarios.logprobs, less, divide(batch, 1), world_size=1)


@pytest.mark.parametrize("family", NEW)
def test_a_tied_model_comes_back_from_two_ranks_as_it_was(family: str, pool: RankPool, tmp_path: Path) -> None:
    folder = make_of_family(
        tmp_path / "tied", family, num_hidden_layers=LAYERS, tie_word_embeddings=True, vocab_size=61
    )
    weights = pool.run(scenarios.train, make_spec(folder, parallel=SP), [], world_size=2)[0]["weights"]
    written = {name: tensor.float().numpy() for name, tensor in load_torch(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    written = {name: tensor for name, tensor in written.items() if not is_kept(name, config)}
    assert weights.keys() == written.keys()
    for name, weight in written.items():
        np.testing.assert_array_equal(weights[name], weight, err_msg=name)


@pytest.mark.parametrize("family", NEW)
def test_a_checkpoint_of_tensor_parallel_ranks_continues_on_pipeline_stages(
    family: str, trained: Any, pool: RankPool
) -> None:
    model = trained(family)
    straight = model.tensor_parallel
    resumed = pool.run(scenarios.resume, model.spec(PP), ITERATIONS[1:], str(model.checkpoint), world_size=2)[0]
    for name, weight in straight["weights"].items():
        np.testing.assert_allclose(resumed["weights"][name], weight, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("family", NEW)
def test_an_export_is_read_by_transformers_and_has_every_tensor_and_key(family: str, trained: Any) -> None:
    model = trained(family)
    column, target = model.tensor_parallel["logprobs"], model.export
    (part,) = ITERATIONS[0]
    read = hf_logprobs(target, part.batch, model.spec({}).temperature)
    print(family, f"log-probs of the export {np.abs(column - read).max():.1e} from transformers'")
    np.testing.assert_allclose(column, read, atol=1e-5)
    ours, theirs = (load_torch(folder / "model.safetensors") for folder in (target, model.folder))
    assert ours.keys() == theirs.keys()
    config = json.loads((model.folder / "config.json").read_text())
    kept = [name for name in theirs if is_kept(name, config)]
    predicts = FAMILIES[family].kept is not None or "num_nextn_predict_layers" in FAMILIES[family].keys
    assert bool(kept) is predicts
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)
    assert json.loads((target / "config.json").read_text()) == config
