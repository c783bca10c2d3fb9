"""A JSONL or Parquet file as numbered rows, each a JSON object. ValueError says why a row cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlscale.config.errors import UserError
from rlscale.data.prompts.messages import kind_of

Row = dict[str, Any]
_AT_ONCE = 4096
"""Rows of a Parquet file that become Python objects in one go."""
_DIGEST_BYTES = 16


class Rows(Protocol):
    """A file as numbered rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Row: ...

    def place(self, row: int) -> str:
        """Where a person finds the row."""

    def read(self, numbers: range) -> Iterator[Row | ValueError]:
        """These rows one after another; an error in place of one that cannot be read."""

    def digest(self, numbers: range) -> str:
        """What two files share exactly when these rows of them are the same."""


def open_rows(path: Path, key: str) -> Rows:
    """The rows of a file. UserError that begins with `key` where there is none or it cannot be read."""
    if path.is_dir():
        raise UserError(f"{key}={path}: is a folder; name its files, such as {key}=[a.parquet,b.parquet]")
    if not path.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    try:
        return JsonLines(path) if path.suffix == ".jsonl" else Parquet(path)
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error.strerror or error})") from error


class JsonLines:
    """One JSON object per line, in UTF-8; blank lines are skipped. Only where lines begin is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        starts, lines, position = [], [], 0
        with path.open("rb") as file:
            self._refuse_binary(file.read(4))
            file.seek(0)
            for line_number, line in enumerate(file, start=1):
                if line.strip() and line.strip() != _BOM:
                    starts.append(position)
                    lines.append(line_number)
                position += len(line)
        self._starts = np.array(starts, np.int64)
        self._lines = np.array(lines, np.int64)
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> Row:
        return parse_line(self._line(row))

    def place(self, row: int) -> str:
        """File and line, counted from 1."""
        return f"{self._path}:{self._lines[row]}"

    def read(self, numbers: range) -> Iterator[Row | ValueError]:
        """These rows one after another; an error in place of one that cannot be read."""
        for row in numbers:
            try:
                yield self[row]
            except ValueError as error:
                yield error

    def digest(self, numbers: range) -> str:
        """Hash of the rows' text, line ends left out."""
        found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for row in numbers:
            found.update(self._line(row).strip() + b"\n")
        return found.hexdigest()

    def _line(self, row: int) -> bytes:
        self._file.seek(int(self._starts[row]))
        return self._file.readline()

    def _refuse_binary(self, first: bytes) -> None:
        """UserError for a file that is something else by its first bytes."""
        for magic, what in _MAGIC.items():
            if first.startswith(magic):
                raise UserError(f"{self._path}: is {what}, not text with one JSON object per line")


class Parquet:
    """A Parquet file as an Arrow table; rows become Python objects when they are asked for."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path = path
        try:
            self._table = pyarrow.parquet.read_table(path, memory_map=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file ({error})") from error
        names = self._table.column_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"{path}: has two columns {twice[0]!r}")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: int) -> Row:
        return self._objects(row, 1)[0]

    def place(self, row: int) -> str:
        """File and row, counted from 0 as in the slice."""
        return f"{self._path}: row {row}"

    def read(self, numbers: range) -> Iterator[Row | ValueError]:
        """These rows one after another; an error in place of one that cannot be read."""
        for start in range(numbers.start, numbers.stop, _AT_ONCE):
            count = min(_AT_ONCE, numbers.stop - start)
            try:
                yield from self._objects(start, count)
            except ValueError:  # one of them: a value that no Python object holds, text that is not UTF-8
                yield from map(self._one, range(start, start + count))

    def digest(self, numbers: range) -> str:
        """Hash of the file and of which rows of it are meant."""
        with self._path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
        found.update(f"{numbers.start}:{numbers.stop}".encode())
        return found.hexdigest()

    def _objects(self, start: int, count: int) -> list[Row]:
        rows: list[Row] = self._table.slice(start, count).to_pylist(maps_as_pydicts="strict")
        return rows

    def _one(self, row: int) -> Row | ValueError:
        try:
            return self[row]
        except ValueError as error:
            return error


def parse_line(line: bytes) -> Row:
    """The object that a line of JSON holds. ValueError saying what it is instead."""
    try:
        text = line.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {line[error.start]:#04x} at {error.start})") from error
    try:
        values = _DECODER.decode(text)
    except _TwiceError:
        raise
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.colno})") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
        raise ValueError(f"JSON that cannot be read ({reason})") from error
    if not isinstance(values, dict):
        raise ValueError(f"is {kind_of(values)}, not a JSON object")
    if "\\u" in text:  # UTF-8 itself holds no surrogates
        for name, value in values.items():
            if (half := _lone_surrogate([name, value])) is not None:
                raise ValueError(f"{name!r} contains half a character ({half}), which is not text; fix or drop it")
    return values


class _TwiceError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"has the key {twice!r} twice")
    return values


def _lone_surrogate(value: Any) -> str | None:
    """The first half of a surrogate pair that stands alone anywhere in the value, as its escape; None without one."""
    if isinstance(value, str):
        if value.isascii():
            return None
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"\\u{ord(value[error.start]):04x}"
        return None
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return (
        next((found for item in value if (found := _lone_surrogate(item))), None) if isinstance(value, list) else None
    )


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_BOM = b"\xef\xbb\xbf"
_MAGIC = {
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
