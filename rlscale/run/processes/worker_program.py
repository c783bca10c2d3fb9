"""The program of a fork server for a CPU run's actors: what ranks and the rollout service import, imported once.

It imports everything but Ray, whose connections do not survive a fork.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.allocator import keep_allocator
from rlscale.platform.device import Platform

IMPORTED = (
    "rlscale.config.checks",
    "rlscale.config.composition.compose",
    "rlscale.run.processes.actors",
    "rlscale.rollout.service",
    "rlscale.trainer.megatron.trainer",
    "transformers.models.auto.tokenization_auto",
)
"""What takes seconds to import."""


def prepare() -> None:
    """Adapt Megatron to the CPU and import it, and the rollout service. Starts no thread."""
    Platform.of(Device.cpu, 0).install_megatron()
    for module in IMPORTED:
        importlib.import_module(module)


def serve(order: Mapping[str, Any]) -> None:
    """Run a script, or a module after -m, with its arguments, as an interpreter that was just started would."""
    keep_allocator()
    script = order["script"]
    importlib.invalidate_caches()  # folders may hold more than they did
    if script[0] == "-m":
        sys.argv[:] = script[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(script[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = script
        sys.path[0] = os.path.dirname(os.path.abspath(script[0]))
        runpy.run_path(script[0], run_name="__main__")
