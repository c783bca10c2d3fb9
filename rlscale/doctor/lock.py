"""The versions that this rlscale is tested with."""

from __future__ import annotations

from rlscale.config.composition.locations import lock_file

TORCH = "2.13.0"
"""Of torch, which the lock leaves to whoever installs it, as its CPU and CUDA builds differ."""


def locked() -> dict[str, str]:
    """Version by package."""
    lines = lock_file().read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {"torch": TORCH, **{name.strip(): pin.split(";")[0].strip() for name, _, pin in pins}}
