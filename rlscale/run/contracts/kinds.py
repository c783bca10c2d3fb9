"""The kinds of components: how each is told from its methods, and how its contract is tested.

A contract test is imported when a component of its kind is checked: together they import most of what a run needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.target import build_target, instantiate, resolve_target
from rlscale.trainer.hook_contract.findings import Finding

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Component:
    """One kind of component."""

    key: str
    """Where its node is in the configuration."""
    methods: tuple[str, ...]
    """Methods by which a class of this kind is told; none for functions, which are told by their parameters."""
    check: Callable[[Node, str], list[Finding]]
    """The contract test of what a node names."""


def _trainer(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.trainer_contract import check_trainer

    return check_trainer(_class(node, key), lambda spec: instantiate(node, key, spec, 0, 1, 0))


def _service(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.service_contract import check_service

    return check_service(_class(node, key), functools.partial(instantiate, node, key))


def _launcher(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.launcher_contract import check_launcher

    return check_launcher(_class(node, key), functools.partial(instantiate, node, key))


def _buffer(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.buffer_contract import check_buffer

    return check_buffer(functools.partial(instantiate, node, key))


def _filter(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.filter_contract import check_filter

    return check_filter(functools.partial(build_target, node, key, 1))


def _transport(node: Node, key: str) -> list[Finding]:
    from rlscale.trainer.hook_contract.transport_contract import check_transport

    return check_transport(functools.partial(instantiate, node, key))


def _loop(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.loop_contract import check_loop

    return check_loop(functools.partial(build_target, node, key, 1))


def _tracker(node: Node, key: str) -> list[Finding]:
    from rlscale.run.contracts.tracker_contract import check_tracker_class

    return check_tracker_class(functools.partial(instantiate, node, key))


def _class(node: Node, key: str) -> type[Any]:
    target: Any = resolve_target(node, key)
    if not isinstance(target, type):
        raise UserError(f"{node['_target_']} is a function: what it makes is known in a run only; check the class")
    return target


COMPONENTS: dict[str, Component] = {
    "trainer": Component("trainer", ("train_shard", "logprobs", "send_weights", "export"), _trainer),
    "service": Component("rollout", ("next_batch", "pause", "resume"), _service),
    "engine": Component("rollout.engine", ("launch", "healthy"), _launcher),
    "buffer": Component("buffer", ("put", "take", "expire"), _buffer),
    "filter": Component("rollout.filter", (), _filter),
    "transport": Component("weights.transport", ("connect", "send", "commit"), _transport),
    "loop": Component("loop", (), _loop),
    "tracker": Component("tracker.known.mine", ("log", "close"), _tracker),
}
