"""What README starts on GPUs fits there, by our own plan."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.plan.planned_run import plan_run

README = Path(__file__).parents[3] / "README.md"
OF_GPUS = re.compile(r"recipe=(?!arithmetic)|cluster=")


@pytest.fixture
def runs_on_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Config]]:
    """(words, configuration) of the commands that start or plan a run on GPUs."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("my/recipe.yaml").write_text("defaults: [arithmetic, _self_]\n")
    commands = re.findall(r"(?m)^python -m rlscale (?:plan )?(.*)$", README.read_text().replace("\\\n", " "))
    found = []
    for words in (shlex.split(command, comments=True) for command in commands if OF_GPUS.search(command)):
        recipe = next((word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), None)
        if words[0] not in ("-m", "explain"):
            config = compose(recipe, [word for word in words if not word.startswith("recipe=")])
            found += [(words, config)] if config.cluster.device is Device.cuda else []
    return found


def test_every_run_on_gpus_of_the_readme_fits(runs_on_gpus: list[tuple[list[str], Config]]) -> None:
    assert len(runs_on_gpus) >= 4
    assert [words for words, config in runs_on_gpus if not plan_run(config).fits] == []
