"""Plain values as YAML that OmegaConf reads back as the same values, whatever their texts hold.

Two things would not come back from `OmegaConf.to_yaml`: PyYAML writes some line separators as they are, and reads
U+0085 as another one; and a text that holds `${` would be taken for an interpolation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper

from rlscale.config.environment_values import FROM, FromEnvironment

_PLAIN = re.compile(r"[\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010fffe]*")
"""Texts of which PyYAML writes every character as it is, and reads it back."""

_INTERPOLATION = re.compile(r"(\\*)\$\{")


def to_yaml(values: Mapping[str, Any]) -> str:
    """Block-style YAML of mappings, lists, texts, numbers, booleans and None, as values without references.

    Of a text in which variables stand for secrets, these are read as what they stand for."""
    return dump(_escaped(values))


def dump(values: Any) -> str:
    """The same of a tree whose texts may hold interpolations."""
    return yaml.dump(values, Dumper=_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False)


def _dumper() -> type[yaml.Dumper]:
    """OmegaConf's own, which quotes what its loader would read as a number or a boolean."""
    base: type[yaml.Dumper] = get_omega_conf_dumper()
    usual = base.yaml_representers[str]

    class Dumper(base):  # type: ignore[valid-type,misc] # a class that is chosen while the program runs
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.Dumper, value: str) -> yaml.Node:
        if _PLAIN.fullmatch(value):
            node: yaml.Node = usual(dumper, value)
            return node
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"')

    Dumper.add_representer(str, text)
    return Dumper


def _escaped(value: Any) -> Any:
    """The same with `${` in texts escaped: a backslash before it, and those before that one doubled."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, FromEnvironment):
        return "".join(part if FROM.fullmatch(part) else _escaped(part) for part in FROM.split(value))
    return _INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value
