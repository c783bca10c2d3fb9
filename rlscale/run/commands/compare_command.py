"""`python -m rlscale weights` and `checkpoint`: which tensors lie somewhere, and in which two places differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.run.commands.verify_command import USAGE as VERIFY_USAGE
from rlscale.run.commands.verify_command import verify
from rlscale.run.disk.resume import checkpoint_of
from rlscale.run.disk.run_folder import read_mark

if TYPE_CHECKING:
    from rlscale.platform.tensor_sum import TensorSum
    from rlscale.weights.tensor_store import TensorStore

USAGE = (
    "usage: python -m rlscale weights checksum PLACE [match=TEXT] [key_file=FILE]\n"
    "       python -m rlscale weights compare A B [match=TEXT] [show=N] [key_file=FILE]\n"
    "       python -m rlscale checkpoint compare A B [match=TEXT] [show=N]\n"
    "  PLACE, A, B  a Hugging Face folder, a safetensors file, a checkpoint, a run (its newest checkpoint),\n"
    "               or the URL of an engine that rlscale has started\n"
    "  match        only tensors whose name has this in it\n"
    "  show         how many of each kind of difference are named; 20 by default\n"
    "  key_file     file with the engine's API key\n"
    "checksum prints type, shape and checksum of every tensor. compare ends with 0 where all are the same, or with 1."
)
_OPTION = re.compile(r"[a-z_]+=")
_SHOWN = 20
_ENGINE_S = 300.0


@dataclass(frozen=True)
class Request:
    """A command line, taken apart."""

    action: str
    places: list[str]
    match: str
    show: int
    key_file: str | None


def weights(arguments: Sequence[str]) -> int:
    """Checksums of a place's tensors, or what two places differ in."""
    return _run("weights", ("checksum", "compare"), arguments)


def checkpoint(arguments: Sequence[str]) -> int:
    """What two checkpoints differ in, or whether some are what was written."""
    if arguments[:1] == ["verify"] and not any(word in ("-h", "--help") for word in arguments):
        return verify(arguments[1:])
    return _run("checkpoint", ("compare", "verify"), arguments)


def _run(command: str, actions: Sequence[str], arguments: Sequence[str]) -> int:
    if any(word in ("-h", "--help") for word in arguments):
        say(USAGE if command == "weights" else f"{USAGE}\n{VERIFY_USAGE}")
        return 0
    request = _read(command, actions, arguments)
    found = [_Place(place, request) for place in request.places]
    if request.action == "checksum":
        for line in found[0].lines():
            say(line)
        return 0
    comparison = Comparison.of(*found)
    for line in comparison.lines(request.show):
        say(line)
    return 0 if comparison.same else 1


def _read(command: str, actions: Sequence[str], arguments: Sequence[str]) -> Request:
    options = [word for word in arguments if _OPTION.match(word)]  # other words with a = in them are paths
    given = dict(word.split("=", 1) for word in options)
    words = [word for word in arguments if word not in options]
    if unknown := sorted(set(given) - {"match", "show", "key_file"}):
        raise UserError(f"{unknown[0]}: {command} does not know it; see python -m rlscale {command} --help")
    action = words[0] if words else ""
    if action not in actions:
        raise UserError(f"{command} {action}: write {command} {' or '.join(actions)}")
    wanted = 1 if action == "checksum" else 2
    if len(words) - 1 != wanted:
        places = "one place" if wanted == 1 else "two places"
        raise UserError(f"{command} {action} takes {places}, {len(words) - 1} given; see --help")
    show = given.get("show", str(_SHOWN))
    if not show.isdigit():
        raise UserError(f"show={show}: must be a whole number")
    return Request(action, words[1:], given.get("match", ""), int(show), given.get("key_file"))


class _Place:
    """Tensors at a path or in an engine."""

    def __init__(self, where: str, request: Request) -> None:
        self._match = request.match
        self._held: dict[str, TensorSum] | None = None
        self._store: TensorStore | None = None
        if where.startswith(("http://", "https://")):
            self.title = where
            self._held = _held_by(where, request.key_file)
            names = list(self._held)
        else:
            self._store, self.title = _store(Path(where))
            names = self._store.names()
        self.names = [name for name in names if request.match in name]

    @property
    def is_engine(self) -> bool:
        """Whether only checksums can be had, and tensors are told as one and in parts."""
        return self._held is not None

    def sum_of(self, name: str) -> TensorSum:
        """Type, shape and checksum of a tensor."""
        if self._held is not None:
            return self._held[name]
        assert self._store is not None
        return self._store.sum_of(name)

    def read(self, name: str) -> Any:
        """The tensor; None of an engine."""
        return None if self._store is None else self._store.read(name)

    def lines(self) -> Iterator[str]:
        """A line for each tensor, and one for all."""
        from rlscale.platform.weight_checksums import checksum

        written = [f"{self.sum_of(name)}  {name}" for name in self.names]
        yield from written
        yield f"{len(written)} tensors, together {checksum(chr(10).join(written).encode())}"


@dataclass(frozen=True)
class Comparison:
    """What two places differ in."""

    one: _Place
    other: _Place
    both: list[str]
    """Names that both have."""
    differing: list[str]
    """Those of them whose tensors are not the same, bit by bit."""

    @staticmethod
    def of(one: _Place, other: _Place) -> Comparison:
        """Reads every tensor that both have."""
        both = sorted(set(one.names) & set(other.names))
        return Comparison(one, other, both, [name for name in both if one.sum_of(name) != other.sum_of(name)])

    @property
    def alone(self) -> list[str]:
        """What only one has, a line each. What an engine tells besides, as one and in parts, does not count."""
        places = (("A", self.one), ("B", self.other))
        known = set(self.both)
        return [
            f"only in {letter}: {name}"
            for letter, place in places
            if not place.is_engine
            for name in place.names
            if name not in known
        ]

    @property
    def same(self) -> bool:
        """Whether they have the same tensors, bit by bit."""
        return bool(self.both) and not self.differing and not self.alone

    def lines(self, show: int) -> Iterator[str]:
        """The comparison for people; of each kind of difference at most `show` are named."""
        for letter, place in (("A", self.one), ("B", self.other)):
            yield f"{letter}: {place.title}, {len(place.names)} tensors"
        alone, differing = self.alone, self.differing
        yield from alone[:show]
        if len(alone) > show:
            yield f"... and {len(alone) - show} more in one place only"
        for name in differing[:show]:
            yield f"differ: {name}: {_difference(name, self.one, self.other)}"
        if len(differing) > show:
            yield f"... and {len(differing) - show} more that differ (show={len(differing)})"
        if self.same:
            yield f"all {len(self.both)} tensors are the same, bit by bit"
        elif not self.both:
            yield "no tensor has the same name in both"
        else:
            yield f"{len(differing)} of {len(self.both)} tensors that both have differ"


def _difference(name: str, one: _Place, other: _Place) -> str:
    """By how much a tensor that both have differs."""
    from rlscale.weights.tensor_store import how_far  # imports torch

    a, b = one.sum_of(name), other.sum_of(name)
    shape = f"{a.dtype} {list(a.shape)}"
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{shape} and {b.dtype} {list(b.shape)}"
    first, second = one.read(name), other.read(name)
    if first is None or second is None:
        return f"{shape}, checksums {a.checksum[:8]}... and {b.checksum[:8]}..."
    return f"{shape}, {how_far(first, second)}"


def _store(path: Path) -> tuple[TensorStore, str]:
    """What lies at a path, and how it is called. A run is its newest checkpoint, a checkpoint its trainer's part."""
    from rlscale.trainer.megatron.disk.code_in_checkpoint import refuse_code  # imports torch, as the other does
    from rlscale.weights.tensor_store import CHECKPOINT, store_at

    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir() and read_mark(path) is not None:
        path = checkpoint_of(path, None)
    if (path / "trainer").is_dir():
        path = path / "trainer"
    if (path / CHECKPOINT).is_file():
        refuse_code(path)
    return store_at(path), str(path)


def _held_by(url: str, key_file: str | None) -> dict[str, TensorSum]:
    from rlscale.serve.receiver import EngineReceiver

    try:
        key = None if key_file is None else Path(key_file).read_text().strip()
    except OSError as error:
        raise UserError(f"key_file={key_file}: cannot be read ({error.strerror})") from error
    return EngineReceiver(url, key, _ENGINE_S).weight_sums()
