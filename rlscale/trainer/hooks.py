"""A user's own score, advantage, loss, correction or reduction, built from its `function` node.

What each must look like is in `rlscale.algo.protocols`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import AlgoConfig, CustomAdvantage, CustomLoss, ReductionKind, ScoreKind
from rlscale.config.schema.correction_config import WeightKind
from rlscale.data.target import build_target

HookKind = Literal["score", "advantage", "loss", "correction", "reduction"]


def hook_key(kind: HookKind) -> str:
    """The configuration key of a hook's node."""
    return f"algo.{kind}.function"


def check_hooks(algo: AlgoConfig) -> None:
    """Build every hook of a configuration, so that one that cannot be built stops a run before anything has started.

    Raises UserError with a line for each of them.
    """
    problems = []
    for kind, node in _nodes(algo).items():
        try:
            build_hook(kind, node)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _nodes(algo: AlgoConfig) -> dict[HookKind, Mapping[str, Any]]:
    """The nodes of the hooks that a configuration chooses."""
    nodes: dict[HookKind, Mapping[str, Any]] = {}
    if algo.score.kind is ScoreKind.custom:
        nodes["score"] = algo.score.function
    if isinstance(algo.advantage, CustomAdvantage):
        nodes["advantage"] = algo.advantage.function
    if isinstance(algo.loss, CustomLoss):
        nodes["loss"] = algo.loss.function
    if algo.correction.weight is WeightKind.custom:
        nodes["correction"] = algo.correction.function
    if algo.reduction.kind is ReductionKind.custom:
        nodes["reduction"] = algo.reduction.function
    return nodes


def build_hook(kind: HookKind, node: Mapping[str, Any]) -> Callable[..., Any]:
    """The callable that a node describes: an instance of its class, or its function with the node's arguments bound.

    The same node gives the same object again: a class is built once per process. Raises UserError, naming the
    key, for a target that cannot be imported, arguments that it does not take, or a function or instance that cannot be
    called as its protocol says.
    """
    return _build(kind, json.dumps(dict(node), sort_keys=True))


@functools.cache
def _build(kind: HookKind, node: str) -> Callable[..., Any]:
    hook: Callable[..., Any] = build_target(json.loads(node), hook_key(kind), call_arguments=1)
    return hook
