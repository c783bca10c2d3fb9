"""Merging options into the schema section by section, and each combination of options only once.

Merging takes OmegaConf most of the time of a composition, and from one composition to the next most sections are the
same: each is kept by what was merged into it. A copy of that costs a small part of the merging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, Node, OmegaConf, flag_override

from rlscale.config.composition.node_copy import copy_of

_TOP_LEVEL_DEFAULTS = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"
"""Flag that Hydra sets on a node whose defaults list is to go once it is merged."""


@dataclass(frozen=True)
class Part:
    """A file or a schema, to be merged in its place."""

    name: tuple[Any, ...]
    """Which one it is; another one once the file has changed."""
    package: str
    """The dotted section that it fills; "" for the whole configuration."""
    load: Callable[[], DictConfig]
    """Makes a copy of it inside that section."""


def merged(parts: Sequence[Part]) -> DictConfig | None:
    """The whole schema, which is the first part, with the others merged into it in their order.

    None where that cannot be done section by section. Raises what OmegaConf raises.
    """
    schema, *options = parts
    inside: dict[str, list[Part]] = {}
    for part in options:
        inside.setdefault(part.package.partition(".")[0], []).append(part)
    if schema.package or not _names(schema).issuperset(inside):
        return None
    sections: dict[str, Any] = {}
    for name in _OUTER[schema.name].sections:
        section = _section(schema, name, inside.get(name, ()))
        if section is None:
            return None
        sections[name] = section
    return _filled(schema, sections)


def merged_at_once(nodes: Sequence[DictConfig]) -> DictConfig:
    """The same for any nodes, which are not copied."""
    root = OmegaConf.create()
    with flag_override(root, "no_deepcopy_set_nodes", True):
        root.merge_with(*nodes)
    _strip_defaults(root)
    return root


@dataclass(frozen=True)
class _Outer:
    """A schema taken apart."""

    root: DictConfig
    """Without its sections."""
    sections: tuple[str, ...]


_OUTER: dict[tuple[Any, ...], _Outer] = {}
"""By the schema's name."""
_SECTIONS: dict[tuple[Any, ...], Any] = {}
"""Sections, to be copied, by the schema, their name and what was merged into them."""


def _names(schema: Part) -> frozenset[str]:
    """The schema's sections, which are known from here on."""
    if schema.name not in _OUTER:
        root = merged_at_once([schema.load()])
        content = root.__dict__["_content"]
        for name, section in content.items():
            section._set_parent(None)
            _SECTIONS[schema.name, name] = section
        root.__dict__["_content"] = {}
        _OUTER[schema.name] = _Outer(root, tuple(content))
    return frozenset(_OUTER[schema.name].sections)


def _section(schema: Part, name: str, options: Sequence[Part]) -> Any:
    """A section of the schema with the options that fill it; None where it depends on other sections."""
    key = (schema.name, name, *((part.name, part.package) for part in options))
    if key not in _SECTIONS:
        root = _filled(schema, {name: _SECTIONS[schema.name, name]})
        with flag_override(root, "no_deepcopy_set_nodes", True):
            for part in options:
                if _follows(root._get_node(name)):
                    return None
                root.merge_with(part.load())
        _strip_defaults(root)
        made: Any = root._get_node(name)
        made._set_parent(None)
        _SECTIONS[key] = made
    return _SECTIONS[key]


def _filled(schema: Part, sections: dict[str, Any]) -> DictConfig:
    """The schema's root with sections in it."""
    root = copy_of(_OUTER[schema.name].root)
    for name, section in sections.items():
        root.__dict__["_content"][name] = copy_of(section, root)
    return root


def _follows(node: Any) -> bool:
    """Whether what is in a node may be another section: merging into it would begin with a copy of that one."""
    content = node._value()
    if isinstance(content, str):
        return "${" in content and isinstance(node, AnyNode | DictConfig | ListConfig)
    if isinstance(content, Node):  # of a union
        return _follows(content)
    if isinstance(content, dict | list):
        return any(map(_follows, content.values() if isinstance(content, dict) else content))
    return False


def _strip_defaults(node: Any) -> None:
    """Remove the defaults lists that are left in a merged configuration, as Hydra does."""
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    with flag_override(node, ["readonly", "struct"], False):
        if node._get_flag(_TOP_LEVEL_DEFAULTS):
            node._set_flag(_TOP_LEVEL_DEFAULTS, None)
            node.pop("defaults", None)
        for _, value in node.items_ex(resolve=False):
            _strip_defaults(value)
