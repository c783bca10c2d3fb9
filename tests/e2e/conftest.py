"""Fixtures of the end-to-end tests, and their order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.file_order import begin_with
from tests.without_gpus import leave_out

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: the files with the fixtures are found here
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, which find each other so

from outside_python import outside_python  # noqa: F401  the path comes first; pytest finds them by name
from shared_ray import shared_ray  # noqa: F401
from shared_server import fork_server, shared_server  # noqa: F401
from transfer_server import transfer_fork_server  # noqa: F401  # a fixture, which pytest finds here

LONGEST = (
    "test_fault_matrix.py",
    "test_algorithms.py",
    "test_default_recipe.py",
    "test_bad_luck.py",
    "test_thinking_example.py",
    "test_on_sync.py",
    "test_grpo_in_one_file.py",
    "test_families.py",
)
"""The files that take longest, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See `leave_out` and `begin_with`."""
    leave_out(config, items)
    begin_with(LONGEST, items)
