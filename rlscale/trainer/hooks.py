"""A user's own score, advantage, loss, correction or reduction, built from its `function` node.

What each must look like is in `rlscale.algo.protocols`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlscale.data.target import build_target

HookKind = Literal["score", "advantage", "loss", "correction", "reduction"]


@dataclass(frozen=True)
class _Call:
    """How a hook is called: the number of its positional arguments, and the names of the others."""

    positional: int
    named: tuple[str, ...] = ()


_CALLS: dict[str, _Call] = {
    "score": _Call(2),
    "advantage": _Call(1),
    "loss": _Call(5),
    "correction": _Call(3),
    "reduction": _Call(1, ("lengths", "sample", "step", "max_response_tokens")),
}


def hook_key(kind: HookKind) -> str:
    """The configuration key of a hook's node."""
    return f"algo.{kind}.function"


def build_hook(kind: HookKind, node: Mapping[str, Any]) -> Callable[..., Any]:
    """The callable that a node describes: an instance of its class, or its function with the node's arguments bound.

    The same node gives the same object again: a class is built once per process. Raises UserError, naming the
    key, for a target that cannot be imported, arguments that it does not take, or a function that cannot be called as
    its protocol says.
    """
    return _build(kind, json.dumps(dict(node), sort_keys=True))


@functools.cache
def _build(kind: HookKind, node: str) -> Callable[..., Any]:
    call = _CALLS[kind]
    hook: Callable[..., Any] = build_target(json.loads(node), hook_key(kind), call.positional, call.named)
    return hook
