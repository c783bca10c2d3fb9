"""Contract tests of components: what `check-hook` runs on a class or function that a `_target_` may name.

Each test is given a function that builds the component, so that several can be compared, and returns one Finding per
check. In a test of your own: `assert not failed(check_buffer(MyBuffer))`. Each is imported when it is first asked for:
together they import most of what a run needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlscale.run.contracts.buffer_contract import check_buffer
    from rlscale.run.contracts.filter_contract import check_filter
    from rlscale.run.contracts.kinds import COMPONENTS, Component
    from rlscale.run.contracts.launcher_contract import check_launcher
    from rlscale.run.contracts.loop_contract import check_loop
    from rlscale.run.contracts.service_contract import check_service
    from rlscale.run.contracts.tracker_contract import check_tracker_class
    from rlscale.run.contracts.trainer_contract import check_trainer
    from rlscale.trainer.hook_contract.transport_contract import check_transport

__all__ = [
    "COMPONENTS",
    "Component",
    "check_buffer",
    "check_filter",
    "check_launcher",
    "check_loop",
    "check_service",
    "check_tracker_class",
    "check_trainer",
    "check_transport",
]

_MODULES = {
    "COMPONENTS": "rlscale.run.contracts.kinds",
    "Component": "rlscale.run.contracts.kinds",
    "check_buffer": "rlscale.run.contracts.buffer_contract",
    "check_filter": "rlscale.run.contracts.filter_contract",
    "check_launcher": "rlscale.run.contracts.launcher_contract",
    "check_loop": "rlscale.run.contracts.loop_contract",
    "check_service": "rlscale.run.contracts.service_contract",
    "check_tracker_class": "rlscale.run.contracts.tracker_contract",
    "check_trainer": "rlscale.run.contracts.trainer_contract",
    "check_transport": "rlscale.trainer.hook_contract.transport_contract",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no {name}")
    return getattr(import_module(_MODULES[name]), name)
