"""The contract of a rollout service, as far as its class says: the methods, that they are async, what they take."""

from __future__ import annotations

import inspect
from typing import Any

from rlscale.rollout.service_protocol import Service
from rlscale.run.contracts.signatures import check_signatures
from rlscale.trainer.hook_contract.findings import Finding, Status


def check_service(target: type[Any]) -> list[Finding]:
    """One finding per method of a service. It is not run: that takes engines, as `python -m rlscale` with it does."""
    findings = check_signatures(target, Service)
    for name in sorted(vars(Service)):
        if name.startswith("_") or not hasattr(target, name):
            continue
        is_async = inspect.iscoroutinefunction(getattr(target, name))
        status = Status.passed if is_async else Status.failed
        findings.append(Finding(name, status, "async def", "it is" if is_async else "an ordinary function"))
    return findings
