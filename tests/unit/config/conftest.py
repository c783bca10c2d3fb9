"""What the configuration tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlscale.config import compose as composing
from rlscale.config.checks import check
from rlscale.config.compose import compose
from rlscale.config.errors import ConfigError

_HYDRA = composing.compose_groups


def _remembered(seen: dict[str, Any]) -> Callable[..., Any]:
    """Hydra's composition of the same groups is the same: the tests that only differ in values share it."""

    def compose_groups(*arguments: Any) -> Any:
        key = repr(arguments)
        if key not in seen:
            seen[key] = _HYDRA(*arguments)
        return copy.deepcopy(seen[key])

    return compose_groups


@pytest.fixture(autouse=True, scope="package")
def _compose_groups_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "compose_groups", _remembered({}))
        yield


_FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def hf() -> Path:
    """Folder of the Hugging Face configs of real models."""
    return _FIXTURES / "hf"


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
