"""Which models trainer and engine can compute with the same bits."""

from __future__ import annotations

from rlscale.families.family import Family


def why_not_bitwise(family: Family) -> str | None:
    """Why the log-probs of trainer and engine cannot be equal bit for bit; None where they can."""
    if family.latent:
        return "an engine attends to compressed keys and the trainer to whole ones, which round differently"
    if family.delta_net:
        return "a gated delta net is summed in chunks by the trainer and token by token by an engine"
    return None
