"""What the configuration tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.locations import conf_dir
from rlscale.config.errors import ConfigError

_FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders without weights, one for each shipped option of the group `model`, by its name."""
    folders = tmp_path_factory.mktemp("hf")
    for config in (conf_dir() / "model").glob("*.json"):
        (folders / config.stem).mkdir()
        (folders / config.stem / "config.json").symlink_to(config)
    return folders


@pytest.fixture
def plain_recipe() -> str:
    """A recipe whose numbers the tests may count on; those of the shipped ones are tuned now and then."""
    return str(_FIXTURES / "recipes" / "plain.yaml")


@pytest.fixture
def problems(plain_recipe: str) -> Callable[..., list[str]]:
    """The lines that composing or checking gives for these overrides; [] when all is well."""

    def of(*overrides: str, recipe: str | None = None) -> list[str]:
        try:
            check(compose(recipe or plain_recipe, overrides))
        except ConfigError as error:
            return error.problems
        return []

    return of
