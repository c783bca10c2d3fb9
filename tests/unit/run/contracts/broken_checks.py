"""What failed of a contract test."""

from __future__ import annotations

from rlscale.trainer.hook_contract.findings import Finding, failed


def broken(findings: list[Finding]) -> set[str]:
    """The names of the checks that failed."""
    return {finding.check for finding in failed(findings)}
