"""The folder of a run's stored rollouts: one file, Parquet or JSONL, for the groups of each iteration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.schema.rollout_config import Store, StoreFormat
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored import rollout_file, rollout_lines
from rlscale.data.stored.sample_overview import SampleOverview
from rlscale.data.stored.trained_tokens import SUFFIX, TrainedTokens, read_trained, write_trained

FOLDER = "rollouts"
"""Its name in the folder of a run."""
_PREFIX = "iteration_"
_FORMATS: dict[str, Any] = {".parquet": rollout_file, ".jsonl": rollout_lines}
"""The module that writes and reads files with that end."""


@dataclass(frozen=True)
class RolloutStore:
    """Writes what an iteration is about to train on (`rollout.store`)."""

    folder: Path
    keep: Store
    most: int
    """Groups of an iteration that `sampled` keeps."""
    temperature: float
    """What was sampled at."""
    tokenizer: str = ""
    """Folder of the tokenizer that the tokens are of."""
    form: StoreFormat = StoreFormat.parquet

    def write(self, iteration: int, version: int, groups: Sequence[Group]) -> None:
        """Store an iteration, in place of what an earlier attempt at it stored. UserError if it cannot be written."""
        if self.keep is Store.none:
            return
        kept = self._kept(groups)
        facts = {
            "iteration": iteration,
            "weight_version": version,
            "kept": self.keep.name,
            "groups": len(groups),
            "temperature": self.temperature,
            "tokenizer": self.tokenizer,
        }
        path = self._file(iteration, f".{self.form.value}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file(iteration, SUFFIX).unlink(missing_ok=True)  # first: it is never beside other groups than its own
            _FORMATS[path.suffix].write_groups(path, kept, facts)
            for other in _FORMATS.keys() - {path.suffix}:
                path.with_suffix(other).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritten(path, error) from error

    def write_trained(self, iteration: int, groups: Sequence[Group], tokens: TrainedTokens) -> None:
        """Store what the tokens of an iteration's groups, all of them, are trained with, as far as the groups are."""
        if self.keep is Store.none:
            return
        offsets = np.cumsum([0, *(_tokens(group) for group in groups)])
        begin = {id(group): int(offset) for group, offset in zip(groups, offsets, strict=False)}
        kept = self._kept(groups)
        places = [np.arange(begin[id(group)], begin[id(group)] + _tokens(group)) for group in kept]
        lengths = [len(sample.tokens) for group in kept for sample in group.samples]
        path = self._file(iteration, SUFFIX)
        try:
            write_trained(path, lengths, tokens.at(np.concatenate([np.zeros(0, np.int64), *places])))
        except OSError as error:
            raise _unwritten(path, error) from error

    def _kept(self, groups: Sequence[Group]) -> Sequence[Group]:
        return spread(groups, self.most) if self.keep is Store.sampled else groups

    def _file(self, iteration: int, suffix: str) -> Path:
        return self.folder / f"{_PREFIX}{iteration:06d}{suffix}"


def _tokens(group: Group) -> int:
    return sum(len(sample.tokens) for sample in group.samples)


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror or error}); set rollout.store=none")


def spread(groups: Sequence[Group], most: int) -> list[Group]:
    """Up to `most` groups, spread over all of them by their place in the data.

    Not in the order in which they were finished: the shortest would come first.
    """
    ordered = sorted(groups, key=lambda group: group.prompt.index)
    return ordered[:: max(1, len(ordered) // most)][:most] if most else []


def _stored(folder: Path) -> Iterator[tuple[int, str]]:
    """Iterations and names of the files there, of which a long run has tens of thousands; none of no folder."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            stem, dot, end = entry.name.rpartition(".")
            number = stem.removeprefix(_PREFIX)
            if dot + end in _FORMATS and number != stem and number.isdecimal() and entry.is_file():
                yield int(number), entry.name


class StoredRollouts:
    """Reads what a run stored. `folder` is the run's, or the one with the files."""

    def __init__(self, folder: Path, key: str) -> None:
        """UserError naming `key` where nothing is stored."""
        self._name = f"{key}={folder}"
        inside = folder / FOLDER
        self._folder = inside if inside.is_dir() else folder
        self._files = dict(sorted(_stored(self._folder)))
        if not self._files:
            raise UserError(f"{self._name}: no rollouts are stored there; a run stores them with rollout.store=all")

    @property
    def iterations(self) -> list[int]:
        """The iterations that are stored."""
        return sorted(self._files)

    def facts(self, iteration: int) -> dict[str, Any]:
        """What is said of a stored iteration: `weight_version`, `kept`, `groups`, `temperature`, `tokenizer`."""
        facts: dict[str, Any] = self._read(iteration).read_facts(self._path(iteration))
        return facts

    def groups(self, iteration: int) -> list[Group]:
        """The groups of a stored iteration."""
        groups: list[Group] = self._read(iteration).read_groups(self._path(iteration))
        return groups

    def outline(self, iteration: int) -> list[tuple[int, float]]:
        """Index of the prompt and reward of each sample of a stored iteration, without its tokens."""
        outline: list[tuple[int, float]] = self._read(iteration).read_outline(self._path(iteration))
        return outline

    def overview(self, iteration: int) -> list[SampleOverview]:
        """What of each sample of a stored iteration is known without its tokens' values."""
        overview: list[SampleOverview] = self._read(iteration).read_overview(self._path(iteration))
        return overview

    def samples(
        self, iteration: int, rows: Sequence[int], *, logprobs: bool = False
    ) -> Iterator[tuple[Prompt, Sample]]:
        """Prompt and sample of some places of an outline, without further arrays, and unless asked for, log-probs."""
        read = self._read(iteration).read_rows
        found: Iterator[tuple[Prompt, Sample]] = read(self._path(iteration), rows, logprobs=logprobs)
        return found

    def trained(self, iteration: int, samples: Mapping[int, Sample]) -> dict[int, TrainedTokens]:
        """What the tokens of samples were trained with, by their places in the outline, of those where it is stored."""
        lengths = {row: len(sample.tokens) for row, sample in samples.items()}
        return read_trained(self._path(iteration).with_suffix(SUFFIX), lengths)

    def _read(self, iteration: int) -> Any:
        return _FORMATS[self._path(iteration).suffix]

    def _path(self, iteration: int) -> Path:
        return self._folder / self._files[iteration]

    def check_replayable(self, iterations: int, temperature: float) -> None:
        """Whether the first `iterations` can be trained on as they were. UserError that says what to change."""
        have = next(n for n in range(1, len(self._files) + 2) if n not in self._files) - 1
        if not have:
            raise UserError(f"{self._name}: iteration 1 is not stored there, and a replay begins with it")
        if have < iterations:
            raise UserError(
                f"{self._name} holds the rollouts of the first {have} iterations; set run.iterations={have}"
            )
        facts = self.facts(1)
        if facts["kept"] != Store.all.name:
            raise UserError(f"{self._name} holds a few of the groups only; store them all, with rollout.store=all")
        if facts["temperature"] != temperature:
            raise UserError(
                f"rollout.temperature={temperature:g}, but the rollouts of {self._name} were sampled at "
                f"{facts['temperature']:g}; set it to that, or log-probs are those of another distribution"
            )
