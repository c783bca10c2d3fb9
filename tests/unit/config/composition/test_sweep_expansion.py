"""Sweeps are expanded as Hydra's basic sweeper does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.composition.sweep_expansion import differing, expand
from rlscale.config.errors import ConfigError


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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.seed=range(1,1)", "names no value"),
        ("run.seed=range(5,1)", "names no value"),
        ("algo=glob(zzz*)", "names no value"),
        ("run.seed=range(1,5,0)", "in steps that are not 0"),
        ("run.seed=range(0,inf)", "from one number to another"),
        ("run.seed=range(0,1,nan)", "from one number to another"),
        ("run.seed=range(1,1e9)", "a sweep of 999,999,999 runs: at most 1,000"),
        ("run.seed=1,2,1", "names 1 twice"),
    ],
)
def test_a_sweep_over_nothing_or_too_much_is_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as found:
        expand([override])
    assert len(found.value.problems) == 1


def test_runs_are_counted_over_all_keys() -> None:
    with pytest.raises(ConfigError, match="a sweep of 1,600 runs"):
        expand(["run.seed=range(0,40)", "optim.lr=range(0,40)"])


def test_a_glob_names_options_and_no_schemas_those_of_ones_own_included(tmp_path: Path) -> None:
    assert [run[0] for run in expand(["algo/loss=glob(*p*)"])] == [
        "algo/loss=cispo",
        "algo/loss=clip",
        "algo/loss=gspo",
        "algo/loss=gspo_token",
        "algo/loss=sapo",
    ]
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("lr: 1\n")
    (tmp_path / "own.yaml").write_text("defaults: [arithmetic, _self_]\n")
    runs = expand(["optim=glob(*)"], str(tmp_path / "own.yaml"))
    assert runs == [["optim=adam"], ["optim=adam_cosine"], ["optim=mine"]]


def test_a_swept_text_with_special_characters_stays_whole() -> None:
    assert expand(["run.root=~/Größe", "run.seed=1,2"]) == [
        ['run.root="~/Größe"', "run.seed=1"],
        ['run.root="~/Größe"', "run.seed=2"],
    ]


def test_what_differs_is_told_apart() -> None:
    assert differing([["a=1", "b=2"], ["a=1", "b=3"]]) == [["b=2"], ["b=3"]]


def test_an_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr=interval\(1,2\): an interval names no values"):
        expand(["optim.lr=interval(1,2)"])
