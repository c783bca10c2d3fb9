"""Composing with the loader that remembers, against Hydra's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import OmegaConf

from rlscale.config import compose as composing
from rlscale.config.compose import compose_node, printed
from rlscale.config.errors import ConfigError


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
        quick = compose_node(recipe, overrides, hydras=True)
        composing._composed.cache_clear()
        assert printed(quick, "all") == printed(own, "all")
        for section in ("algo", "algo.loss", "data", "reward", "model", "parallel"):
            ours, theirs = OmegaConf.select(quick.node, section), OmegaConf.select(own.node, section)
            assert OmegaConf.get_type(ours) is OmegaConf.get_type(theirs)
            assert ours._get_full_key("x") == f"{section}.x"


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
