"""Composing with the loader that remembers, against Hydra's own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig

from rlscale.config.composition import compose as composing
from rlscale.config.composition.compose import compose_node, printed
from rlscale.config.errors import ConfigError


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests empty it again and again; what others have composed in this process stays."""
    monkeypatch.setattr(composing, "_composed", functools.lru_cache(composing._composed.__wrapped__))


def _by_hydra(monkeypatch: pytest.MonkeyPatch, recipe: str | None, overrides: Sequence[str]) -> composing.Composition:
    def own_loader(search_path: ConfigSearchPath, made: str) -> ConfigLoaderImpl:
        return ConfigLoaderImpl(search_path)

    with monkeypatch.context() as patched:
        patched.setattr(composing, "QuickLoader", own_loader)
        composing._composed.cache_clear()
        composition = compose_node(recipe, overrides, hydras=True)
    composing._composed.cache_clear()
    return composition


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (None, []),
        (None, ["algo=ppo", "algo/loss=gspo", "reward=judge", "rollout/filter=varied_rewards", "data@eval.data=jsonl"]),
        ("plain", ["model=deepseek_v3", "parallel=moe_8gpu", "cluster=local_cpu"]),
        ("plain", ["data=mixture", "data@data.sources.one.data=arithmetic", "reward@data.sources.one.reward=judge"]),
    ],
)
def test_what_is_composed_is_what_hydra_composes(
    recipe: str | None, overrides: list[str], plain_recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = plain_recipe if recipe else None
    own = _by_hydra(monkeypatch, recipe, overrides)
    for _ in range(2):  # read, and remembered
        composing._composed.cache_clear()
        quick, job = compose_node(recipe, overrides, hydras=True), compose_node(recipe, overrides)
        assert printed(quick, "all") == printed(own, "all")
        assert list(nodes(quick.node)) == list(nodes(job.node)) == list(nodes(own.node))


def nodes(node: Any, key: str = "") -> Iterator[tuple[Any, ...]]:
    """All that OmegaConf knows of a node and of those inside it."""
    content, metadata = node._value(), node._metadata
    inside = content if isinstance(content, dict) else {}
    value = "" if inside else repr(content)
    assert node._get_full_key(None) == key
    yield key, type(node), metadata.ref_type, metadata.object_type, metadata.optional, metadata.flags, value
    if isinstance(node, DictConfig):
        yield metadata.key_type, metadata.element_type
    for name, child in inside.items():
        assert child._get_parent() is node
        yield from nodes(child, f"{key}.{name}" if key else name)


def test_a_section_that_follows_another_is_merged_with_it(
    tmp_path: Path, plain_recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "optim/of_both": "# @package _global_\noptim: {megatron: {a: 1}}\ncritic: {optim: {lr: 0.5}}\n",
        "optim/own": "megatron: {a: 1}\n",
        "tracker/of_critic": "# @package critic\noptim: {megatron: {b: 2}}\n",
    }.items():
        (tmp_path / name).with_suffix(".yaml").parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".yaml").write_text(text)
    for choices in (["optim=of_both", "~optim"], ["optim=own", "~optim", "tracker=of_critic"]):
        overrides = [f"hydra.searchpath=[{tmp_path}]", *choices]
        own = _by_hydra(monkeypatch, plain_recipe, overrides)
        composed = compose_node(plain_recipe, overrides)
        assert list(nodes(composed.node)) == list(nodes(own.node))
    assert composed.node.critic.optim.megatron == {"a": 1, "b": 2}


def test_an_option_that_does_not_fit_the_schema_is_named_as_hydra_names_it(
    tmp_path: Path, plain_recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "odd.yaml").write_text("lr: [1, 2]\n")
    overrides = [f"hydra.searchpath=[{tmp_path}]", "optim=odd", "~optim"]
    with pytest.raises(ConfigError) as own:
        _by_hydra(monkeypatch, plain_recipe, overrides)
    with pytest.raises(ConfigError, match="In 'optim/odd'") as quick:
        compose_node(plain_recipe, overrides, hydras=True)
    assert quick.value.problems == own.value.problems


def test_a_composition_does_not_change_what_is_remembered() -> None:
    first = compose_node(None, ["algo=ppo"])
    before = printed(first, "job")
    first.node.optim.lr = 123.0
    composing._composed.cache_clear()
    assert printed(compose_node(None, ["algo=ppo"]), "job") == before


def test_an_option_that_sets_hydras_own_configuration_is_refused(tmp_path: Path, plain_recipe: str) -> None:
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "odd.yaml").write_text("# @package hydra.job\nname: x\n")
    with pytest.raises(ConfigError, match="In 'tracker/odd': ConfigKeyError Key 'hydra' not in 'Config'"):
        compose_node(plain_recipe, [f"hydra.searchpath=[{tmp_path}]", "tracker=odd"])
