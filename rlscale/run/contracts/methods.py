"""Findings about the methods of a component: whether it has those of its protocol."""

from __future__ import annotations

from typing import Any

from rlscale.data.protocol_methods import protocol_methods, protocol_problems
from rlscale.trainer.hook_contract.findings import Finding, Report, Status


def check_methods(target: type[Any], protocol: type[Any]) -> list[Finding]:
    """One finding per method of the protocol."""
    return [
        Finding(
            method.name,
            Status.passed if method.problem is None else Status.failed,
            method.wanted,
            "it is like that" if method.problem is None else f"it {method.problem}",
        )
        for method in protocol_methods(target, protocol)
    ]


def report_methods(report: Report, instance: Any, protocol: type[Any]) -> None:
    """One finding about all methods of an instance; ends the test where one is not as the protocol has it."""
    problems = protocol_problems(instance, protocol)
    expected = f"those of {protocol.__module__}.{protocol.__name__}"
    report.add("methods", expected, not problems, "; ".join(problems) or "it has them")
    report.stop_if_failed("methods")
