"""Sweeps are expanded as Hydra's basic sweeper does."""

from __future__ import annotations

import pytest

from rlscale.config.errors import ConfigError
from rlscale.config.sweep import differing, expand


def test_a_sweep_is_the_product_with_the_last_key_fastest() -> None:
    assert expand(["run.seed=1,2", "optim.lr=3", "algo=grpo,gspo"]) == [
        ["run.seed=1", "optim.lr=3", "algo=grpo"],
        ["run.seed=1", "optim.lr=3", "algo=gspo"],
        ["run.seed=2", "optim.lr=3", "algo=grpo"],
        ["run.seed=2", "optim.lr=3", "algo=gspo"],
    ]


def test_ranges_choices_and_globs_are_known() -> None:
    assert expand(["run.seed=range(1,4)"]) == [["run.seed=1"], ["run.seed=2"], ["run.seed=3"]]
    assert expand(["optim.lr=choice(1,2)"]) == [["optim.lr=1"], ["optim.lr=2"]]
    assert expand(["algo=glob(g*)"]) == [["algo=grpo"], ["algo=gspo"], ["algo=gspo_token"]]


def test_a_list_is_one_value() -> None:
    assert expand(["eval.pass_k=[1,2]"]) == [["eval.pass_k=[1,2]"]]


def test_what_differs_is_told_apart() -> None:
    assert differing([["a=1", "b=2"], ["a=1", "b=3"]]) == [["b=2"], ["b=3"]]


def test_an_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not support sweep type"):
        expand(["optim.lr=interval(1,2)"])
