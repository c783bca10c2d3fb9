"""The linears that can have an adapter, of every family."""

from __future__ import annotations

import pytest

from rlscale.families import FAMILIES, linears
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.linears import adapted_linears, adapter_parameters, linear_names
from rlscale.families.tensors import expected_tensors
from tests.unit.families.folders import TINY


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_linears_are_matrices_of_the_layers_and_no_routers_norms_or_embeddings(family: str) -> None:
    config = complete(TINY[family])
    tensors = expected_tensors(config, Head.language)
    names = [*linear_names(config, experts=False), *linear_names(config, experts=True)]
    assert names
    assert len(set(names)) == len(names)
    assert all(len(tensors[f"{name}.weight"][0]) == 2 for name in names)
    left_out = {name.removesuffix(".weight") for name, (shape, _) in tensors.items() if len(shape) == 2} - {*names}
    assert {name.rpartition(".")[2] for name in left_out} <= {
        *("embed_tokens", "lm_head", "gate", "shared_expert_gate", "in_proj_qkvz", "in_proj_ba", "out_proj", "A_log"),
    }


def test_an_adapter_has_its_rank_times_inputs_and_outputs() -> None:
    config = complete(TINY["qwen3"])
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    query, key = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    assert adapter_parameters(config, 4, ["*.q_proj", "*.v_proj"]) == layers * 4 * (2 * hidden + query + key)
    assert adapter_parameters(config, 4, ["model.layers.0.mlp.down_proj"]) == 4 * (hidden + config["intermediate_size"])


def test_experts_are_named_apart_and_counted_where_a_pattern_picks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = complete(TINY["qwen3_moe"])
    experts = list(linear_names(config, experts=True))
    assert len(experts) == 3 * config["num_experts"] * config["num_hidden_layers"]
    assert not {*experts} & {*linear_names(config, experts=False)}
    assert adapter_parameters(config, 4, None) == adapter_parameters(config, 4, ["*.self_attn.*"])
    ends = config["hidden_size"] + config["moe_intermediate_size"]
    assert adapter_parameters(config, 4, ["*.experts.*"]) == len(experts) * 4 * ends
    asked: list[str] = []
    monkeypatch.setattr(linears, "is_target", lambda name, patterns: not asked.append(name))  # type: ignore[func-returns-value]  # always true
    adapter_parameters(config, 4, ["*.experts.*"])
    assert len(asked) == (3 + 4) * config["num_hidden_layers"]  # a layer's first expert, and its attention
    monkeypatch.undo()
    assert [*adapted_linears(config, None)] == [*linear_names(config, experts=False)]
    assert [*adapted_linears(config, ["*.experts.*"])] == experts
