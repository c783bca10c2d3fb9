"""Prompt, label and the other keys of a row, by the keys of the configuration. ValueError says what a row lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.data import FileData
from rlscale.data.messages import Message, as_plain, kind_of, read_messages

_JSON = (str, bool, int, float, list, dict)


def read_row(row: Mapping[str, Any], config: FileData, key: str) -> tuple[str | list[Message], Any, dict[str, Any]]:
    """Prompt, label (None without a `label_key`) and the other keys of a row. `key` is the section of the keys."""
    prompt = as_plain(_at(row, config.prompt_key, f"{key}.prompt_key"))
    label = None
    if config.label_key is not None:
        label = as_plain(_at(row, config.label_key, f"{key}.label_key, to null for none"))
    info = {name: as_plain(value) for name, value in row.items() if name not in (config.prompt_key, config.label_key)}
    if isinstance(prompt, str):
        if config.apply_chat_template and not prompt.strip():
            raise ValueError(f"{config.prompt_key!r} is empty")
    else:
        try:
            prompt = read_messages(prompt)
        except ValueError as error:
            raise ValueError(f"{config.prompt_key!r} {error}") from None
    if config.label_key is not None:
        check_label(label, config.label_key)
    for name, value in ((config.prompt_key, prompt), (config.label_key, label), *info.items()):
        if (text := lone_surrogate(value)) is not None:
            raise ValueError(f"{name!r} holds half a character ({text}), which is not text; mend or drop it")
    return prompt, label, info


def value_at(row: Mapping[str, Any], key: str) -> Any:
    """The value at a key: the key as it stands, or a path through objects and lists such as `reward_model.truth`.

    KeyError, with the keys that there are instead, where there is none.
    """
    if key in row:
        return row[key]
    found: Any = row
    for part in key.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise KeyError(*(sorted(map(str, found)) if isinstance(found, Mapping) else ()))
    return found


def check_label(label: Any, name: str) -> None:
    """ValueError for a label that JSON does not hold: one that a reward could not compare with."""
    if label is None:
        raise ValueError(f"{name!r} is null")
    if not isinstance(label, _JSON):
        raise ValueError(f"{name!r} is of type {kind_of(label)}; write it as text or as a number")
    if isinstance(label, float) and not math.isfinite(label):
        raise ValueError(f"{name!r} is {label}, which is not a number")


def lone_surrogate(value: Any) -> str | None:
    """The first half of a surrogate pair that stands alone anywhere in the value, as its escape; None without one."""
    if isinstance(value, str):
        if value.isascii():
            return None
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"\\u{ord(value[error.start]):04x}"
        return None
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return next((found for item in value if (found := lone_surrogate(item))), None) if isinstance(value, list) else None


def _at(row: Mapping[str, Any], key: str, option: str) -> Any:
    try:
        return value_at(row, key)
    except KeyError as error:
        raise ValueError(f"no key {key!r}, only {', '.join(error.args) or 'none'}; set {option}") from None
