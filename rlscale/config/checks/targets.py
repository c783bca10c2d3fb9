"""Nodes that name a user's class or function by `_target_`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def named_target(node: Mapping[str, object], key: str, how: str, *, needed: bool) -> Iterator[str]:
    """Problems of such a node: without a name where one is `needed` or arguments are given, or with a broken name.

    `how` is the option to choose instead.
    """
    target = node.get("_target_")
    if target is None:
        if node or needed:
            yield f"{key}._target_: has no value; name your class or function as module.name, or choose {how}"
    elif not isinstance(target, str) or "." not in target or not all(part.isidentifier() for part in target.split(".")):
        yield f"{key}._target_={target}: must be the dotted name of a class or function, module.name"
