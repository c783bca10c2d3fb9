"""Names that a user chooses for sections, and values that stand where a section or a mapping has to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

NAMED = {
    "eval.sets": "{prompts: 3}",
    "rollout.models": "{path: m}",
    "rollout.engine_groups": "{engines: 1}",
    "data.sources": "{weight: 1}",
}
"""Mappings of chosen names to sections, with a value for one."""
CONTAINERS = (*NAMED, "run", "eval", "optim.groups", "tracker.known", "reward.function", "rollout.sglang")
CONTAINERS += (
    "trainer.megatron",
    "trainer.arguments",
    "agent.arguments",
    "weights.transport",
    "data.chat_template_kwargs",
)
CONTAINERS += ("model.create.architecture", "run.groups", "eval.pass_k")


def words(place: str, *more: str) -> list[str]:
    return [*(["data=mixture"] if place == "data.sources" else []), *more]


def refused(recipe: str | None, overrides: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check(compose(recipe, overrides))
    return raised.value.problems


@pytest.mark.parametrize("place", NAMED)
@pytest.mark.parametrize("name", ["../x", "a.b", "a/b", "a b", "..", ".a", "-a", "x" * 65, "$x"])
def test_a_name_that_is_none_is_refused_on_the_command_line(place: str, name: str) -> None:
    (line,) = refused(None, words(place, f"{place}={{{name}: {NAMED[place]}}}"))
    assert line.startswith(f"{place}: {name!r} is no name; it has letters, digits, _ and - only")


@pytest.mark.parametrize("place", NAMED)
@pytest.mark.parametrize("name", ["a/b", "a b", "a[0]", "-a", "", "x" * 65, "a:b", "$x", "a\\nb"])
def test_and_in_a_recipe(place: str, name: str, tmp_path: Path) -> None:
    outer, inner = place.split(".")
    file = tmp_path / "r.yaml"
    chosen = "override data: mixture" if outer == "data" else "override data: arithmetic"
    values = f'{outer}: {{{inner}: {{"{name}": {NAMED[place]}}}}}'
    file.write_text(f"defaults: [arithmetic, {{{chosen}}}, _self_]\n{values}\n")
    (line,) = refused(str(file), [])
    assert line.startswith(f"{file}: {place}: ")
    assert " is no name; it has letters, digits, _ and - only" in line


def test_a_name_with_a_dot_in_a_recipe_is_one_line(tmp_path: Path) -> None:
    """Keys of YAML with dots are read as the command line's are."""
    file = tmp_path / "r.yaml"
    for name in ("a.b", "../x", ".", ".a", "a..b"):
        file.write_text(f"defaults: [arithmetic, _self_]\neval: {{sets: {{'{name}': {{prompts: 3}}}}}}\n")
        assert refused(str(file), [])[0].startswith(f"{file}: eval.sets")


@pytest.mark.parametrize("name", ["small", "AIME24", "in_2", "a-b", "größer", "2nd"])
def test_what_is_a_name_stays_one(name: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"defaults:\n  - arithmetic\n  - data@eval.sets.{name}.data: arithmetic\n  - _self_\n")
    assert name in compose(str(file)).eval.sets


@pytest.mark.parametrize("place", CONTAINERS)
@pytest.mark.parametrize("value", ["${run.seed}", "'${oc.env:HOME}'", "${optim.lr}"])
def test_an_interpolation_of_another_kind_is_one_line(place: str, value: str) -> None:
    assert refused(None, words(place, f"{place}={value}"))[0].startswith(f"{place}: ")


def test_a_section_that_followed_another_may_be_given_values_of_its_own() -> None:
    (line,) = refused(None, ["eval.sets=${run.seed}", "eval.sets.a.prompts=3"])
    assert line.startswith("eval.sets.a.data: ")


def test_it_is_one_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "eval.sets={../x: {prompts: 3}}"]) == 2
    assert capsys.readouterr().err == (
        "error: eval.sets: '../x' is no name; it has letters, digits, _ and - only, 64 at most, and does not begin "
        "with -\n"
    )
