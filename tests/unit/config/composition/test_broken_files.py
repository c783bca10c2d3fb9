"""Recipes and option files that nobody can compose are one line that names the file, in no time."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError

_BASE = "defaults: [arithmetic, _self_]\n"


def line_of(recipe: Path | str, *overrides: str) -> str:
    """The one line that composing gives; the test fails where it takes long."""
    began = time.process_time()
    with pytest.raises(UserError) as found:
        compose(str(recipe), overrides)
    assert time.process_time() - began < 5
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def doubled(levels: int) -> str:
    """Aliases of which each is ten times the one before."""
    names = "abcdefghijklmnop"[: levels + 1]
    lists = [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(names)]
    return "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(lists)


BROKEN: dict[str, tuple[bytes | str, str]] = {
    "hydra is a number": (_BASE + "hydra: 5\n", "hydra: 5 has no effect here"),
    "searchpath is a text": (_BASE + "hydra: {searchpath: here}\n", "hydra.searchpath: here is not a list of folders"),
    "searchpath of numbers": (_BASE + "hydra: {searchpath: [5]}\n", "hydra.searchpath: [5] is not a list of folders"),
    "another key of hydra": (_BASE + "hydra: {5: 6}\n", "hydra.5 has no effect here"),
    "a duplicate key": (_BASE + "run: {seed: 1, seed: 2}\n", "line 2: not valid YAML (found duplicate key seed)"),
    "a tab": (_BASE + "run:\n\tseed: 1\n", "line 3: not valid YAML"),
    "a NUL byte": (_BASE.encode() + b"run: {seed: 1\0}\n", "special characters are not allowed"),
    "not UTF-8": (_BASE.encode() + b"run: {seed: \xff}\n", "is not text in UTF-8 (byte 43)"),
    "names itself": ("defaults: [own, _self_]\n", "builds on itself"),
    "a hundred thousand brackets": ("[" * 100_000, "line 1: more than 50 levels of nesting"),
    "aliases that explode": (_BASE + doubled(12), "line 6: more than 20,000 values, its aliases (*) written out"),
    "an alias inside itself": (_BASE + "run: &r {seed: *r}\n", "line 2: *r stands inside what it names"),
    "longer than any recipe": (_BASE + "#" * 300_000, "is 300,031 bytes long"),
    "two documents": (_BASE + "---\nrun: {seed: 1}\n", "not valid YAML (but found another document)"),
    "a single value": ("5\n", "line 1: a single value"),
    "a list": ("[1]\n", "is a mapping"),
    "empty": ("", "begins with a defaults list"),
    "a group without a name": ("defaults: [arithmetic, {'': x}]\n", "an entry is `group: option`"),
    "a Python object": (_BASE + "run: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_recipe_is_one_line_that_names_it(fault: str, tmp_path: Path) -> None:
    content, says = BROKEN[fault]
    file = tmp_path / "own.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = line_of(file)
    assert line.startswith(str(file))
    assert says in line


OPTIONS: dict[str, tuple[bytes | str, str]] = {
    "a tab": ("\tlr: 1\n", "line 1: not valid YAML"),
    "a duplicate key": ("lr: 1\nlr: 2\n", "line 1: not valid YAML (found duplicate key lr)"),
    "a NUL byte": (b"lr: 1\0\n", "special characters are not allowed"),
    "not UTF-8": (b"lr: \xff\n", "is not text in UTF-8 (byte 4)"),
    "defaults that name itself": ("defaults: [mine]\n", "builds on itself"),
    "defaults that name itself by its group": ("defaults: [/optim: mine]\n", "builds on itself"),
    "defaults that name nothing": ("defaults: [adm]\n", "defaults names optim/adm, and there is no such option; did"),
    "defaults that are a number": ("defaults: 5\n", "defaults is a list of options, not 5"),
    "an unclosed bracket": ("lr: [\n", "not valid YAML"),
    "an alias inside itself": ("groups: &g {a: *g}\n", "*g stands inside what it names"),
    "a list": ("[1]\n", "an option is a mapping of keys to values"),
    "a single value": ("5\n", "a single value"),
    "two documents": ("lr: 1\n---\nlr: 2\n", "not valid YAML"),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_a_broken_option_is_one_line_that_names_it(fault: str, tmp_path: Path) -> None:
    content, says = OPTIONS[fault]
    (tmp_path / "optim").mkdir()
    file = tmp_path / "optim" / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "own.yaml").write_text(_BASE)
    line = line_of(tmp_path / "own.yaml", "optim=mine", "~optim")
    assert line.startswith(str(file))
    assert says in line.replace("line 2", "line 1")


def test_an_option_that_is_not_chosen_may_be_broken(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("[" * 1000)
    (tmp_path / "own.yaml").write_text(_BASE)
    assert compose(str(tmp_path / "own.yaml"), ["run.seed=3"]).run.seed == 3


def test_options_that_build_on_each_other_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("defaults: [other]\n")
    (tmp_path / "optim" / "other.yaml").write_text("defaults: [mine]\n")
    (tmp_path / "own.yaml").write_text(_BASE)
    line = line_of(tmp_path / "own.yaml", "optim=mine", "~optim")
    assert line.endswith("builds on itself, by way of optim/other")


def test_an_option_changed_between_two_compositions_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "own.yaml").write_text(_BASE)
    found = []
    for rate in (0.25, 0.0625):
        (tmp_path / "optim" / "mine.yaml").write_text(f"lr: {rate}\n")
        found.append(compose(str(tmp_path / "own.yaml"), ["optim=mine", "~optim"]).optim.lr)
    assert found == [0.25, 0.0625]


@pytest.mark.parametrize("recipe", ["", "..", "a" * 5000, "a" * 5000 + ".yaml", "a\0b.yaml", "~nobody/x.yaml"])
def test_a_recipe_that_cannot_be_a_file_is_one_line(recipe: str) -> None:
    assert line_of(recipe).startswith("recipe=")


def test_a_folder_given_as_a_recipe_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").mkdir()
    assert line_of(tmp_path / "own.yaml").endswith("there is no such file (it is a folder)")
