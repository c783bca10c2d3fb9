"""The contract of a rollout service, as far as its class says: the methods, that they are async, what they take."""

from __future__ import annotations

from typing import Any

from rlscale.rollout.service_protocol import Service
from rlscale.run.contracts.methods import check_methods
from rlscale.trainer.hook_contract.findings import Finding


def check_service(target: type[Any]) -> list[Finding]:
    """One finding per method of a service. It is not run: that takes engines, as `python -m rlscale` with it does."""
    return check_methods(target, Service)
