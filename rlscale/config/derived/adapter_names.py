"""The names under which engines hold the policy's adapter, by weight version (`weights.lora=adapter`)."""

from __future__ import annotations

_PREFIX = "policy-"


def adapter_name(version: int) -> str:
    """What requests for the weights of `version` name."""
    return f"{_PREFIX}{version}"


def version_of(name: str | None) -> int | None:
    """The version in a name; None for any other name."""
    digits = (name or "").removeprefix(_PREFIX)
    return int(digits) if name != digits and digits.isdecimal() else None
