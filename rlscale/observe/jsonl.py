"""Files with one JSON object per line, written as the run goes and readable after a kill in the middle of a line.

Every text is read back as it was written. What some program takes for the end of a line (U+2028, U+0085, ...), what no
UTF-8 file can hold (lone surrogates) and what terminals obey (control characters) is written as JSON's `\\uXXXX`. The
one text that JSON has no form for is a high surrogate before a low one: it is read back as the character of the two.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rlscale.config import own_files
from rlscale.observe.atomic import write_text

_DEEPEST = 100
"""Levels of lists and mappings inside a record; what lies deeper is written as "…"."""

_MOST_BITS = 14_000
"""Whole numbers of more bits have more digits than Python reads (4300): they are written as hexadecimal text."""

_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What `json.dumps(ensure_ascii=False)` leaves as it is, of the characters above."""


def to_line(record: Mapping[str, Any]) -> str:
    """One line. Numbers that are not finite become null: JSON has no word for them."""
    return to_json(record) + "\n"


def to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """The JSON of a record, over several lines with `indent`."""
    text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records; lines that are not a JSON object (a kill leaves half a last one) are passed over."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def rewrite(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file by these records in one step."""
    write_text(path, "".join(to_line(record) for record in records))


def open_to_append(path: Path) -> TextIO:
    """Open for appending lines, each handed to the system at once. A half line at the end is closed off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = own_files.open_to_append(path)
    if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        os.close(file)
        rewrite(path, read(path))
        file = own_files.open_to_append(path)
    return os.fdopen(file, "a", encoding="utf-8", buffering=1)


def _plain(value: Any, level: int = 0) -> Any:
    """Builtin numbers, strings, lists and dicts only; NumPy and torch arrays and scalars have `tolist`."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _MOST_BITS else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if level > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _plain(item, level + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, level + 1) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), level + 1)
    return str(value)
