"""What several packages say about a mixture of experts: what is balanced, what a dense model lacks."""

from __future__ import annotations

from typing import Any


def load_balancing(kinds: Any, coefficients: Any) -> list[tuple[Any, Any]]:
    """Megatron's types of load balancing with their coefficients, from one of each or from lists of both.

    ValueError where only one of the two is a list, where they are empty, where their lengths differ, or where
    a type is named twice.
    """
    if isinstance(kinds, list) != isinstance(coefficients, list):
        raise ValueError("only one of types and coefficients of load balancing is a list")
    if not isinstance(kinds, list):
        return [(kinds, coefficients)]
    if not kinds or len(kinds) != len(coefficients) or len(set(map(str, kinds))) != len(kinds):
        raise ValueError(
            "lists of types and coefficients of load balancing are empty, of two lengths, or repeat a type"
        )
    return list(zip(kinds, coefficients, strict=True))


def replay_without_experts(mode: str, model: str) -> str:
    """What is wrong with `trainer.routing_replay` where the model is dense."""
    return f"trainer.routing_replay={mode}: {model} has no experts; set it to none, or choose a mixture of experts"
