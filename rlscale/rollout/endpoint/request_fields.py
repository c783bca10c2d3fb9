"""Fields of a request: what is the run's to decide, what changes no answer, and all others, refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlscale.rollout.endpoint.dialect import mapping, unusable

_RUNS_OWN = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("thinking", "reasoning", "reasoning_effort", "effort"),
    }
)
"""How tokens are drawn, which the loss relies on, and how the policy thinks, which is its chat template's affair."""
_WITHOUT_EFFECT = frozenset(
    {
        *("metadata", "user", "safety_identifier", "service_tier", "inference_geo", "store"),
        *("prompt_cache_key", "prompt_cache_retention", "cache_control", "prediction", "max_tool_calls"),
    }
)
"""What is about bills, caches, regions or tools of the provider: the answer is the same with and without."""
_EMPTY: tuple[Any, ...] = (None, [], {})
_SHOWN = 60


def unheeded_fields(
    body: Mapping[str, Any], read: Sequence[str], neutral: Mapping[str, Sequence[Any]], why: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a body that are the run's to decide, with their values.

    `read`: those that the protocol reads. `neutral`: values at which another field asks for nothing. Refusal naming
    any other field: what it asks for would not be done. `why` has more to say of some.
    """
    unheeded = {}
    for key, value in body.items():
        if key in read or key in _WITHOUT_EFFECT or value in _EMPTY or value in neutral.get(key, ()):
            continue
        if key not in _RUNS_OWN:
            shown = str(value)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            raise unusable(f"{key}={shown} is not supported{': ' if key in why else ''}{why.get(key, '')}")
        unheeded[key] = value
    return unheeded


def tool_choice(value: Any, forcing: Sequence[str]) -> tuple[bool, dict[str, Any]]:
    """Whether tools may be called, and, where one of `forcing` wants a call, that this is not done.

    Refusal for a choice that is none of these, auto or none.
    """
    kind = mapping(value, "tool_choice").get("type") if isinstance(value, dict) else value
    if kind not in (None, "auto", "none", *forcing):
        raise unusable(f"tool_choice {kind!r} is not supported; there are auto, none, {', '.join(forcing)}")
    return kind != "none", {"tool_choice": value} if kind in forcing else {}


def strict_tools(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a tool is to be called by its schema alone (`strict`), that this is not done."""
    asked = any(tool.get("strict") for tool in tools)
    return {"strict": True} if asked else {}


def seed_of(body: Mapping[str, Any]) -> int | None:
    """The seed of a request: another one asks for another answer to the same."""
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise unusable("seed must be an integer", "invalid")
    return seed
