"""YAML read by libyaml, where PyYAML has it, as OmegaConf's own loader reads it, in a sixth of the time.

Composing reads three dozen files, which takes a program that starts longer than anything else does. OmegaConf reads
with PyYAML's scanner in Python. This loader has its rules (its version is pinned); what libyaml refuses is read by
OmegaConf's own, so that messages stay. test_quick_yaml.py holds the two against each other.
"""

from __future__ import annotations

import functools
from typing import Any

import yaml
from omegaconf import _utils

own_loader = _utils.get_yaml_loader
"""OmegaConf's: makes its class of loader."""


@functools.cache
def quick_loader() -> Any:
    """The class of loader; OmegaConf's own where PyYAML was built without libyaml."""
    own = own_loader()
    if not yaml.__with_libyaml__:
        return own

    class QuickYaml(yaml.CSafeLoader):
        yaml_implicit_resolvers = own.yaml_implicit_resolvers
        yaml_constructors = own.yaml_constructors

        def __init__(self, stream: Any) -> None:
            self.text = stream if isinstance(stream, str | bytes) else stream.read()
            super().__init__(self.text)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            plain = [key.value for key, _ in node.value if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG]
            if len(set(plain)) < len(plain):
                raise yaml.constructor.ConstructorError(None, None, "a key stands twice")
            return super().construct_mapping(node, deep=deep)

        def get_single_data(self) -> Any:
            try:
                return super().get_single_data()
            except yaml.YAMLError:
                return own(self.text).get_single_data()

    return QuickYaml


_utils.get_yaml_loader = quick_loader
