"""What tests of several rooms share."""

from __future__ import annotations

import gc
import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from tests.extras.extra_packages import extra_packages  # noqa: F401  pytest finds it by name
from tests.file_order import begin_with
from tests.loggers_apart import pytest_runtest_setup  # noqa: F401  the same

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, which find each other so

# How long examples take says how busy the machine is, and nothing of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# Hypothesis would parse every imported file of rlscale for constants to try, once the tests are collected; which ones
# it found would hang on what was imported before.
providers._get_local_constants = lambda: providers._local_constants

LONGEST = (
    "test_battery.py",
    "test_service_refill.py",
    "test_simulate.py",
    "test_reward_worker.py",
    "test_loss_contract.py",
    "test_check_hook.py",
    "test_hook_contract.py",
    "test_logprobs.py",
    "test_sandbox.py",
    "test_supervisor.py",
    "test_allocator.py",
    "test_packages_of_problems.py",
    "test_trackers.py",
    "test_c_kernel.py",
    "test_megatron_fixups.py",
    "test_conversion.py",
    "test_fork_server.py",
    "test_forked_python.py",
    "test_text_game.py",
    "test_code_tests.py",
    "test_shipped.py",
    "test_quick_loader.py",
    "test_algorithm_checks.py",
    "test_documented_commands.py",
    "test_debug_option.py",
    "test_explain.py",
)
"""Files that compute or wait longest, the longest first."""
SHARED = ("transformers.models.qwen3.modeling_qwen3", "transformers.models.auto.modeling_auto", "openai.resources")
"""What tests import where they use it, and every fork of a whole run would import for itself."""
WHOLE = 3000
"""A run of more tests than this is one of all."""


def pytest_collectstart() -> None:
    """Nothing that is imported is garbage. Not in the process of xdist that collects nothing, and finishes nothing."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See `begin_with`."""
    begin_with(LONGEST, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What importing the tests has made stays to the end: without it, collecting garbage takes a tenth of the time."""
    if len(session.items) > WHOLE:
        for name in SHARED:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]
