"""Megatron on the CPU for the tests of this folder, whichever is collected first."""

from __future__ import annotations

from rlscale.platform import megatron_cpu

megatron_cpu.install()
