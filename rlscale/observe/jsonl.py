"""Files with one JSON object per line, written as the run goes and readable after a kill in the middle of a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rlscale.observe.atomic import write_text


def to_line(record: Mapping[str, Any]) -> str:
    """One line. Numbers that are not finite become null: JSON has no word for them."""
    return json.dumps(_plain(record), ensure_ascii=False, separators=(", ", ": "), allow_nan=False) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records; lines that are not a JSON object (a kill leaves half a last one) are passed over."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
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
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        rewrite(path, read(path))
    return open(path, "a", encoding="utf-8", buffering=1)


def _plain(value: Any) -> Any:
    """Builtin numbers, strings, lists and dicts only; NumPy and torch scalars have `item`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)
