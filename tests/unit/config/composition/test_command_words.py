"""Which run the words of a command mean."""

from __future__ import annotations

import pytest

from rlscale.cli import main
from rlscale.config.composition.command_words import recipe_and_overrides


def test_the_recipe_is_told_from_overrides_in_their_order() -> None:
    assert recipe_and_overrides(["a=1", "recipe=mine.yaml", "~b"], "plan") == ("mine.yaml", ["a=1", "~b"])
    assert recipe_and_overrides(["a=1"]) == (None, ["a=1"])


@pytest.mark.parametrize("command", [[], ["check"], ["plan"], ["explain"], ["simulate"], ["import", "to=folder"]])
def test_a_recipe_given_twice_is_refused_by_every_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "recipe=arithmetic", "recipe=arithmetic_sft"]) == 2
    assert "recipe=arithmetic_sft: the recipe is given twice" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "plan", "explain", "simulate", "import"])
def test_an_option_that_a_command_lacks_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--fast"]) == 2
    assert f"{command} does not know '--fast'; see python -m rlscale {command} --help" in capsys.readouterr().err
