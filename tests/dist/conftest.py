"""Fixtures of the tests on several gloo ranks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the pool's processes import these modules by their names

from rank_pool import RankPool
from tiny_models import make_models

from tests.file_order import begin_with
from tests.without_gpus import leave_out

LONGEST = (
    "test_families.py",
    "test_layouts.py",
    "test_critic.py",
    "test_checkpoints.py",
    "test_algorithms.py",
    "test_float16.py",
    "test_split_invariance.py",
    "test_trainer.py",
)
"""Files that take over ten seconds, the longest first."""


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """Ranks for the whole run, as many as the tests need."""
    ranks = RankPool()
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """See make_models."""
    return make_models(tmp_path_factory.mktemp("models"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core is left alone with one at the end."""
    leave_out(config, items)
    begin_with(LONGEST, items)


def pytest_collection_finish() -> None:
    """What importing the tests has made stays to the end: without it, collecting garbage takes a tenth of the time."""
    gc.collect()
    gc.freeze()
