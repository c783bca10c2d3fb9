"""Prompt, label and the other keys of a row, by the keys of the configuration. ValueError says what a row lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.data_config import FileData
from rlscale.data.prompts.messages import Message, as_plain, kind_of, read_messages, without_null

_JSON = (str, bool, int, float, list, dict)


def prompt_and_label(row: Mapping[str, Any], config: FileData, key: str) -> tuple[str | list[Message], Any]:
    """Prompt and label (None without a `label_key`) of a row. `key` is the section of the configuration's keys."""
    prompt = _at(row, config.prompt_key, f"{key}.prompt_key")
    if isinstance(prompt, str):
        if config.apply_chat_template and not prompt.strip():
            raise ValueError(f"{config.prompt_key!r} is empty")
        if config.apply_chat_template and _is_list_of_messages(prompt):
            raise ValueError(f"{config.prompt_key!r} is a list of messages written as text; write the list itself")
    else:
        try:
            prompt = read_messages(prompt)
        except ValueError as error:
            raise ValueError(f"{config.prompt_key!r} {error}") from None
    if config.label_key is None:
        return prompt, None
    label = _at(row, config.label_key, f"{key}.label_key, to null for none")
    check_label(label, config.label_key)
    return prompt, label


def tools_of(row: Mapping[str, Any], config: FileData) -> list[dict[str, Any]]:
    """The JSON schemas of the tools of a row, empty where it has none. A list, or the text of a list in JSON."""
    if config.tools_key is None:
        return []
    try:
        tools = as_plain(value_at(row, config.tools_key))
    except KeyError:
        return []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{config.tools_key!r} is text that is not a list in JSON ({error})") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        if tools is None:
            return []
        raise ValueError(
            f"{config.tools_key!r} is {kind_of(tools)}, not a list of JSON schemas of functions; "
            "fix it, or read no tools with data.tools_key=null"
        )
    return [without_null(tool) for tool in tools]


def _is_list_of_messages(text: str) -> bool:
    """Whether a text would be messages if it were read as JSON: as a text, all of it would be said by the user."""
    if not text.lstrip().startswith("[") or '"role"' not in text:
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and any(isinstance(item, dict) and "role" in item for item in value)


def other_keys(row: Mapping[str, Any], config: FileData) -> dict[str, Any]:
    """What the reward gets as `info`."""
    return {name: value for name, value in row.items() if name not in (config.prompt_key, config.label_key)}


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


def _at(row: Mapping[str, Any], key: str, option: str) -> Any:
    try:
        return value_at(row, key)
    except KeyError as error:
        raise ValueError(f"no key {key!r}, only {', '.join(error.args) or 'none'}; set {option}") from None
