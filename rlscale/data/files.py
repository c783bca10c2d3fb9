"""Prompts from a JSONL or Parquet file, or from a slice of its rows (`path@[10:20]`)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.schema.data import FileData
from rlscale.data.sources import RawPrompt, Stream

_SLICE = re.compile(r"^(?P<path>.+)@\[(?P<start>-?\d*):(?P<stop>-?\d*)\]$")


class _Rows(Protocol):
    """A file as numbered rows."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> dict[str, Any]: ...
    def check(self, numbers: range, config: FileData, key: str) -> None: ...


class FileSource(Stream):
    """Every row is a prompt: `prompt_key` a string or chat messages, `label_key` its label, other keys `info`.

    The whole file is checked when it is opened, so that a mistake in its last line is found before the run starts.
    """

    def __init__(self, config: FileData, key: str = "data") -> None:
        self._config = config
        path, start, stop = parse_slice(config.path, key)
        self._rows: _Rows = _open(path, key)
        self._numbers = range(len(self._rows))[start:stop]
        if not len(self._numbers):
            what = f"the slice holds none of its {len(self._rows)} rows" if len(self._rows) else "it is empty"
            raise UserError(f"{key}.path={config.path}: no prompts, {what}")
        self._rows.check(self._numbers, config, key)
        super().__init__(len(self._numbers), config.shuffle, config.seed)

    def item(self, number: int, index: int) -> RawPrompt:
        """The prompt in row `number` of the slice."""
        row = self._numbers[number]
        values = dict(self._rows[row])
        prompt = values.pop(self._config.prompt_key)
        label = values.pop(self._config.label_key) if self._config.label_key is not None else None
        return RawPrompt(index=index, id=str(row), prompt=prompt, label=label, info=values)


def parse_slice(path: str, key: str) -> tuple[Path, int | None, int | None]:
    """`file@[a:b]` as (file, a, b), None where a bound is left out. UserError for another form after the @."""
    match = _SLICE.match(path)
    if match is None:
        if "@[" in path:
            raise UserError(f"{key}.path={path}: a slice is written file@[start:stop]")
        return Path(path).expanduser(), None, None
    start, stop = (int(text) if text not in ("", "-") else None for text in match.group("start", "stop"))
    return Path(match["path"]).expanduser(), start, stop


def _missing_key(names: Collection[str], config: FileData, key: str, place: str) -> None:
    """UserError if a configured key is not among the names."""
    for name, option in ((config.prompt_key, "prompt_key"), (config.label_key, "label_key")):
        if name is not None and name not in names:
            raise UserError(f"{place}: no key {name!r}, only {', '.join(sorted(names)) or 'none'}; set {key}.{option}")


def _not_a_prompt(config: FileData, place: str) -> UserError:
    return UserError(f"{place}: {config.prompt_key!r} is neither a string nor a list of messages with role and content")


def _open(path: Path, key: str) -> _Rows:
    if not path.is_file():
        raise UserError(f"{key}.path={path}: there is no such file")
    if path.suffix == ".jsonl":
        return _JsonLines(path)
    if path.suffix == ".parquet":
        return _Parquet(path)
    raise UserError(f"{key}.path={path}: must end in .jsonl or .parquet")


class _JsonLines:
    """One JSON object per line; blank lines are skipped. Only where lines begin is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        starts, lines, position = [], [], 0
        with path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                if line.strip():
                    self._parse(line, line_number)
                    starts.append(position)
                    lines.append(line_number)
                position += len(line)
        self._starts = np.array(starts, np.int64)
        self._lines = np.array(lines, np.int64)
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> dict[str, Any]:
        self._file.seek(int(self._starts[row]))
        return self._parse(self._file.readline(), int(self._lines[row]))

    def check(self, numbers: range, config: FileData, key: str) -> None:
        """UserError with file and line unless each of the rows has its keys and a prompt."""
        for row in numbers:
            place = f"{self._path}:{self._lines[row]}"
            values = self[row]
            _missing_key(values, config, key, place)
            prompt = values[config.prompt_key]
            if isinstance(prompt, str):
                continue
            messages = isinstance(prompt, list) and len(prompt) > 0
            if not messages or any(not isinstance(m, dict) or not {"role", "content"} <= set(m) for m in prompt):
                raise _not_a_prompt(config, place)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{self._path}:{number}: not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{self._path}:{number}: is {type(values).__name__}, not a JSON object")
        return values


class _Parquet:
    """A Parquet file as an Arrow table; rows become Python objects when they are asked for."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path = path
        try:
            self._table = pyarrow.parquet.read_table(path, memory_map=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file ({error})") from error

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._table.slice(row, 1).to_pylist()[0]

    def check(self, numbers: range, config: FileData, key: str) -> None:
        """UserError unless the columns are there, the prompts of the right type, and none of these rows without one."""
        import pyarrow.types as kinds

        _missing_key(self._table.column_names, config, key, str(self._path))
        column = self._table.column(config.prompt_key)
        if kinds.is_list(column.type) or kinds.is_large_list(column.type):
            message = column.type.value_type
            good = kinds.is_struct(message) and {"role", "content"} <= {field.name for field in message}
        else:
            good = kinds.is_string(column.type) or kinds.is_large_string(column.type)
        if not good:
            raise _not_a_prompt(config, str(self._path))
        empty = column.slice(numbers.start, len(numbers)).is_null().to_numpy()
        if empty.any():
            raise UserError(f"{self._path}: row {numbers.start + int(empty.argmax())} has no {config.prompt_key!r}")
