"""Values that a configuration takes from the environment (`${oc.env:NAME}`): which they are, and files without them.

A recipe names variables so that keys need not stand in it. What a run writes of its configuration has the name again
in the place of every such value that is a secret, by the name of the variable, of the key, or by its form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig

SECRET_NAME = re.compile(
    r"(?:^|[_.\-])(?:(?:api)?key|token|secret|pass(?:word|wd|phrase)?|pwd|credentials?|auth(?!_mode))(?:$|[_.\-])",
    re.IGNORECASE,
)
"""What variables and keys with secrets are called: whole words, as `model.tokenizer` and `AUTHOR` are none."""
MAYBE_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS(?:W|PHRASE|$)|CREDENTIAL|AUTH(?!_MODE)", re.IGNORECASE)
"""What is in the names of variables that may hold secrets: what is shown to others is better hidden once too often."""
_NAMES_A_COLUMN = re.compile(r"^(?:prompt|label|tools)_key$")
"""Keys of data that name the fields of rows."""
_SECRET_FORM = re.compile(r"://[^/\s@]+@|(?i:\bbearer )|-----BEGIN ")
"""An address with a password, for one."""
_VARIABLE = re.compile(r"oc\.env:\s*([^,}\s]+)")
_LONG = 6
"""Characters from which on a value is looked for in other texts, too: those that follow it, or hold it."""


FROM = re.compile(r"(\$\{oc\.env:[^}]*\})")
"""What stands for a value of the environment."""


class FromEnvironment(str):
    """A text in which variables stand for secrets."""

    __slots__ = ()


def environment_of(node: DictConfig) -> dict[str, str]:
    """By key, the variables that values of an open configuration are taken from, with commas between several."""
    return {key: ", ".join(names) for key, text in _written(node, "") if (names := _VARIABLE.findall(text))}


def without_secrets(values: Any, taken: Mapping[str, str], variables: Mapping[str, str] = os.environ) -> Any:
    """Plain values in which each secret of the environment is `${oc.env:NAME}` again; `taken`: see `environment_of`."""
    if not taken:
        return values
    secrets = {
        name: variables[name]
        for key, names in taken.items()
        for name in names.split(", ")
        if variables.get(name) and _is_secret(key, name, variables[name])
    }
    longest = sorted(secrets.items(), key=lambda one: len(one[1]), reverse=True)
    return _hidden(values, "", taken, longest)


def _is_secret(key: str, name: str, value: str) -> bool:
    own = key.rpartition(".")[2]
    named = SECRET_NAME.search(name) or (SECRET_NAME.search(own) and not _NAMES_A_COLUMN.match(own))
    return bool(named or _SECRET_FORM.search(value))


def _hidden(value: Any, key: str, taken: Mapping[str, str], secrets: list[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        inside = f"{key}." if key else ""
        return {name: _hidden(inner, f"{inside}{name}", taken, secrets) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner, f"{key}.{place}", taken, secrets) for place, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name, secret in secrets:
        if secret in value and (len(secret) >= _LONG or key in taken):
            value = FromEnvironment(value.replace(secret, f"${{oc.env:{name}}}"))
    return value


def _written(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys and texts of interpolations, as they were written."""
    content = node._value()
    if isinstance(content, str):
        if "${" in content:
            yield key, content
    elif isinstance(node, DictConfig) and isinstance(content, dict):
        for name, inner in content.items():
            yield from _written(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(node, ListConfig) and isinstance(content, list):
        for place, inner in enumerate(content):
            yield from _written(inner, f"{key}.{place}")
