"""Contract tests of components: what `check-hook` runs on a class or function that a `_target_` may name.

Each test is given a function that builds the component, so that several can be compared, and returns one Finding per
check. In a test of your own: `assert not failed(check_buffer(MyBuffer))`.
"""

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
