"""The files that `data.path` names, each with the slice of its rows: `problems.jsonl`, `problems.jsonl@100:200`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import FileData

SUFFIXES = (".jsonl", ".parquet")
_SLICE = re.compile(r"^(?P<path>.+)@(?P<bracket>\[)?(?P<start>-?\d+)?:(?P<stop>-?\d+)?(?(bracket)\])$", re.DOTALL)
_AFTER_SUFFIX = re.compile(r"\.(jsonl|parquet)@")


@dataclass(frozen=True)
class DataPath:
    """A file and the rows that are taken of it, bounds as in Python; None where one is left out."""

    path: Path
    start: int | None = None
    stop: int | None = None

    def rows(self, count: int) -> range:
        """The numbers of the rows that are taken of a file with `count` rows."""
        return range(count)[self.start : self.stop]


def data_paths(config: FileData, key: str) -> list[DataPath]:
    """The files of `{key}.path`, in their order. UserError for a value that names none."""
    return [parse_path(text, key) for text in path_texts(config.path, key)]


def path_texts(value: Any, key: str) -> list[str]:
    """The entries of `{key}.path` as they were given. UserError where they are neither a path nor a list of paths."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{key}.path={value}: must be a path or a list of paths, such as {key}.path=[a.jsonl,b.jsonl]")
    return texts


def parse_path(text: str, key: str) -> DataPath:
    """`file`, `file@a:b` or `file@[a:b]`. UserError for another form after the @, or a file of no known kind."""
    match = _SLICE.match(text)
    if match is None and _AFTER_SUFFIX.search(text):
        raise UserError(f"{key}.path={text}: a slice is written file@start:stop, such as problems.jsonl@100:200")
    path = Path(match["path"] if match else text).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{key}.path={text}: must end in {' or '.join(SUFFIXES)}{_instead(path)}")
    if match is None:
        return DataPath(path)
    start, stop = (int(bound) if bound is not None else None for bound in match.group("start", "stop"))
    return DataPath(path, start, stop)


def _instead(path: Path) -> str:
    """What to do about a file of another kind."""
    if path.suffix in (".gz", ".zst", ".bz2", ".xz", ".zip"):
        return "; unpack it first, since rows are read in any order"
    if path.suffix == ".json":
        return "; .jsonl is one JSON object per line"
    if path.suffix in (".csv", ".tsv", ".arrow"):
        return f"; datasets.Dataset.to_parquet writes one from {path.suffix}"
    return "; several files are given as a list, [a.jsonl,b.jsonl]" if "*" in str(path) or "," in str(path) else ""
