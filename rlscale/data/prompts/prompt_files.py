"""Prompts from JSONL and Parquet files, or from slices of their rows (`path@10:20`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlscale.config.derived.data_paths import data_paths, path_texts
from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import FileData
from rlscale.data.prompts.bad_rows import BadRows
from rlscale.data.prompts.overlap import PromptText, prompt_hash
from rlscale.data.prompts.row_values import other_keys, prompt_and_label, tools_of
from rlscale.data.prompts.rows import Rows, open_rows
from rlscale.data.prompts.sources import RawPrompt, Stream


class FileSource(Stream):
    """Every row is a prompt: `prompt_key` a string or chat messages, `label_key` its label, other keys `info`.

    All rows are read when the files are opened, so that a mistake in the last line is found before the run starts.
    ConfigError lists the bad ones; up to `max_bad_rate` of all rows they are left out instead (see `bad`).
    """

    def __init__(self, config: FileData, key: str = "data") -> None:
        self._config = config
        self._key = key
        self._files = _open_all(config, key)
        self.bad = BadRows(key, sum(len(file.numbers) for file in self._files))
        places, hashes = self._read_all()
        self.bad.refuse_past(config.max_bad_rate)
        self._places = np.array(places, np.int64).reshape(-1, 2)
        self._hashes = np.array(hashes, np.uint64)
        digest = hashlib.blake2b("".join(file.digest() for file in self._files).encode(), digest_size=16)
        self.left_out = self.bad.count
        super().__init__(len(places), config.shuffle, config.seed, digest.hexdigest())

    def item(self, number: int, index: int) -> RawPrompt:
        """The prompt in good row `number`."""
        of, row = (int(value) for value in self._places[number])
        file = self._files[of]
        place = file.rows.place(row)
        try:
            values = file.rows[row]
            prompt, label = prompt_and_label(values, self._config, self._key)
            tools = tools_of(values, self._config)
        except ValueError as error:
            raise UserError(f"{place}: has changed since the run opened it ({error})") from error
        name = str(row) if len(self._files) == 1 else f"{file.name}:{row}"
        return RawPrompt(index, name, prompt, label, other_keys(values, self._config), place, tools)

    def holds(self, prompts: Sequence[PromptText]) -> int:
        """How many of these prompts are among its own, in whatever form and with whatever label."""
        return int(np.isin(np.array([prompt_hash(prompt) for prompt in prompts], np.uint64), self._hashes).sum())

    def shared_rows(self, other: FileSource) -> tuple[Path, int]:
        """A file of which both take the same rows, and how many; 0 where there is none."""
        path, count = self._files[0].path, 0
        for mine in self._files:
            for theirs in other._files:
                if mine.path.resolve() == theirs.path.resolve():
                    both = min(mine.numbers.stop, theirs.numbers.stop) - max(mine.numbers.start, theirs.numbers.start)
                    if both > count:
                        path, count = mine.path, both
        return path, count

    def _read_all(self) -> tuple[list[tuple[int, int]], list[int]]:
        """File and row of every good row, and the hash of its prompt; the others are counted in `bad`."""
        places, hashes = [], []
        for number, file in enumerate(self._files):
            for row, values in zip(file.numbers, file.rows.read(file.numbers), strict=True):
                try:
                    if isinstance(values, ValueError):
                        raise values
                    prompt, _ = prompt_and_label(values, self._config, self._key)
                    tools_of(values, self._config)
                except ValueError as error:
                    self.bad.add(f"{file.rows.place(row)}:", str(error))
                else:
                    places.append((number, row))
                    hashes.append(prompt_hash(prompt))
        return places, hashes


@dataclass(frozen=True)
class _File:
    """One of the files, and which of its rows are taken."""

    name: str
    path: Path
    rows: Rows
    numbers: range

    def digest(self) -> str:
        return self.rows.digest(self.numbers)


def _open_all(config: FileData, key: str) -> list[_File]:
    """Every file of the configuration. UserError where one is not there or none of its rows are taken."""
    texts, paths = path_texts(config.path, key), data_paths(config, key)
    names = [path.path.name for path in paths]
    if len(set(names)) < len(names):
        names = texts
    files = []
    for text, name, path in zip(texts, names, paths, strict=True):
        rows = open_rows(path.path, f"{key}.path")
        numbers = path.rows(len(rows))
        if not len(numbers):
            what = f"the slice contains none of its {len(rows)} rows" if len(rows) else "it is empty"
            raise UserError(f"{key}.path={text}: no prompts, {what}")
        files.append(_File(name, path.path, rows, numbers))
    return files
