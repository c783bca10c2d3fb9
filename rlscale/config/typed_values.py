"""A composed node as the dataclasses of the schema: what `OmegaConf.to_object` makes of it, in an eighth of the time.

OmegaConf parses every `${key}` by its grammar, and the critic's sections follow the policy's in three dozen of them.
"""

from __future__ import annotations

import re
from dataclasses import Field, fields
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

_OF_KEY = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
"""An interpolation that is another key's value, as `following` writes them."""


class _LeftToOmegaConf(Exception):
    """A value that is missing, or an interpolation of another kind."""


def typed(node: DictConfig) -> Any:
    """The node's values as the dataclasses that it is composed of. Raises what `to_object` raises."""
    try:
        return _value(node, node)
    except _LeftToOmegaConf:
        return OmegaConf.to_object(node)


def _value(node: Any, root: DictConfig) -> Any:
    """A node's value, all the way down."""
    content = node._value()
    if isinstance(content, str) and (content == MISSING or "${" in content):
        raise _LeftToOmegaConf
    if isinstance(node, DictConfig) and content is not None:
        kind: Any = OmegaConf.get_type(node)
        if kind is dict:
            return {key: _value(inner, root) for key, inner in content.items()}
        return kind(**{item.name: _of_field(node, item, root) for item in fields(kind)})
    if isinstance(node, ListConfig) and content is not None:
        return [_value(inner, root) for inner in content]
    return content


def _of_field(section: DictConfig, item: Field[Any], root: DictConfig) -> Any:
    """The value of a section's field, or the one that it follows."""
    node: Any = section._get_node(item.name)
    content = node._value()
    if not isinstance(content, str) or "${" not in content:
        return _value(node, root)
    if (match := _OF_KEY.fullmatch(content)) is not None:
        around, _, name = match[1].rpartition(".")
        followed = OmegaConf.select(root, around) if around else root
        if isinstance(followed, DictConfig) and _types(followed).get(name) == item.type:
            return _value(followed._get_node(name), root)
    value = section[item.name]  # of another type, which OmegaConf converts, or of a resolver
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _types(section: DictConfig) -> dict[str, Any]:
    """The types of a section's fields; {} for a mapping without a schema."""
    kind: Any = OmegaConf.get_type(section)
    return {} if kind is dict or kind is None else {item.name: item.type for item in fields(kind)}
