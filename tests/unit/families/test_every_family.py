"""What holds for each family: the tiny config of tests/fixtures/families is all that a new one brings here."""

from __future__ import annotations

import importlib.util
import json
import re
from copy import copy
from dataclasses import fields
from math import prod
from pathlib import Path

import pytest
import torch
import transformers

from rlscale.config.passthrough import known_options
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, problems
from rlscale.families.family import Head, dimensions
from rlscale.families.fit import check_weights
from rlscale.families.tensors import (
    carried_tensors,
    expected_tensors,
    experts_of,
    parameter_count,
    visited_parameters,
)
from tests.unit.families.folders import TINY

READ_BY_SGLANG = re.compile(r'getattr\(\s*(?:self\.)?config,\s*"(\w+)"|\b(?:self\.)?config\.(\w+)')
OTHER_MODULES = {"glm_moe_dsa": ("deepseek_v2",)}
"""Where the rest of a family is, which its own module inherits."""
CHANGES_NOTHING = {
    *("__class__", "architectures", "model_type", "quantization_config", "torch_dtype"),
    *("target_hidden_size", "linear_num_key_heads_cpu", "linear_num_value_heads_cpu", "routing_method_type"),
    # As we read it: the list of layers' kinds, a length of rope_scaling, of indexers, which we compute nothing with.
    *("layers_block_type", "original_max_position_embeddings", "indexer_rope_interleave"),
    *("mla", "use_qk_norm"),  # of a method, and of the other family in that module
    "moe_layer_freq",  # which SGLang sets itself where the family does not know it
}
"""Of what SGLang's modules read: no key of a model, or none that its numbers depend on."""

pytestmark = pytest.mark.parametrize("name", sorted(FAMILIES))


def test_the_tiny_config_is_understood_whole_and_supported(name: str) -> None:
    assert list(problems(TINY[name])) == []
    whole = complete(TINY[name])
    assert list(FAMILIES[name].unsupported(whole)) == []
    assert TINY[name].keys() - {"model_type", "architectures"} <= FAMILIES[name].keys.keys()


def test_every_key_that_transformers_reads_is_known(name: str) -> None:
    theirs = type(transformers.AutoConfig.for_model(name))
    own = {field.name for field in fields(theirs)} - {field.name for field in fields(transformers.PreTrainedConfig)}
    assert own - FAMILIES[name].keys.keys() == set()


def test_every_key_that_sglang_reads_is_known_or_refused_where_it_changes_something(name: str) -> None:
    family, modules = FAMILIES[name], {FAMILIES[name].sglang_module, *OTHER_MODULES.get(name, ())}
    (folder,) = importlib.util.find_spec("sglang").submodule_search_locations or []  # type: ignore[union-attr]  # it is there
    read: set[str] = set()
    for module in modules:
        text = (Path(folder) / "srt" / "models" / f"{module}.py").read_text(encoding="utf-8")
        read |= {one or other for one, other in READ_BY_SGLANG.findall(text)}
    assert read & {"hidden_size", "num_hidden_layers"}
    assert read - family.keys.keys() - family.engine_alone.keys() - CHANGES_NOTHING == set()
    for key, nothing in family.engine_alone.items():
        assert list(family.unsupported(complete({**TINY[name], key: nothing}))) == []
        (line,) = family.unsupported(complete({**TINY[name], key: {"some": 7}}))
        assert line.startswith(f"{key} is not supported for {name}: SGLang computes with it")
        if nothing is not None:  # SGLang takes a null for false or 0
            (of_null,) = family.unsupported(complete({**TINY[name], key: None}))
            assert of_null == line


@pytest.mark.parametrize("tied", [True, False])
def test_names_shapes_and_parameters_are_those_that_transformers_saves(name: str, tied: bool, tmp_path: Path) -> None:
    config = {**TINY[name], "tie_word_embeddings": tied}
    given = transformers.AutoConfig.for_model(
        **{key: copy(value) for key, value in config.items() if key != "architectures"}
    )
    policy = transformers.AutoModelForCausalLM.from_config(given)
    assert type(policy).__name__ == FAMILIES[name].language_class
    carried = sum(prod(shape) for shape, _ in carried_tensors(complete(config)).values())
    assert sum(parameter.numel() for parameter in policy.parameters()) == parameter_count(complete(config)) + carried
    policy.save_pretrained(tmp_path / "policy")
    check_weights(tmp_path / "policy", complete(config), Head.language)
    if FAMILIES[name].value_class is None:
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            transformers.AutoModelForTokenClassification.from_config(given)
        return
    scalar = transformers.AutoConfig.for_model(**given.to_dict() | {"num_labels": 1})
    critic = transformers.AutoModelForTokenClassification.from_config(scalar)
    assert type(critic).__name__ == FAMILIES[name].value_class
    critic.save_pretrained(tmp_path / "critic")
    check_weights(tmp_path / "critic", complete(config), Head.value)


def test_megatron_knows_every_option_that_the_family_gives(name: str) -> None:
    options = FAMILIES[name].transformer_options(complete(TINY[name]))
    known = known_options("latent_transformer" if FAMILIES[name].latent else "transformer")
    assert known is not None
    assert options.keys() <= known.keys()
    assert json.loads(json.dumps(options)) == options  # plain data: no torch, no function
    assert callable(getattr(torch.nn.functional, options["activation_func"]))
    assert ("num_moe_experts" in options) is FAMILIES[name].experts


def test_megatrons_sizes_are_those_of_the_tensors(name: str) -> None:
    config = complete(TINY[name])
    options, sizes = FAMILIES[name].transformer_options(config), dimensions(config)
    assert options["num_attention_heads"] * options["kv_channels"] == sizes["query"]
    assert options["num_query_groups"] * options["kv_channels"] == sizes["key"]
    assert (options["hidden_size"], options["ffn_hidden_size"]) == (sizes["hidden"], sizes["inner"])
    assert options.get("moe_ffn_hidden_size", 0) == sizes["expert_inner"]


def test_the_family_says_whether_it_is_a_mixture_of_experts(name: str) -> None:
    config = complete(TINY[name])
    of_experts = [tensor for tensor in expected_tensors(config, Head.language) if ".experts." in tensor]
    assert FAMILIES[name].experts is bool(of_experts) is bool(experts_of(config))
    assert visited_parameters(config) < parameter_count({**config, "tie_word_embeddings": True})
