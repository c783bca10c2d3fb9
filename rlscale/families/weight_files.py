"""The safetensors files of a model folder and what their headers say: which file holds which tensor, type and shape.

What transformers 5 reads is what is read here: `model.safetensors`, else the files that the index names. Where SGLang
and transformers would read different files, or one name stands in several files, the folder is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.families.config_file import read_json
from rlscale.families.family import FolderError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SUMS = "weight_checksums.json"
"""The checksums of a folder's tensors, where they are written (`rlscale.platform.weight_checksums`)."""
ADAPTER = "adapter"
"""The folder within an exported one that holds the adapter by itself, where there is one."""

_HEADER_MOST = 100_000_000
"""Bytes of the largest header that the safetensors library accepts."""

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of a tensor."""

    file: Path
    dtype: str
    """Its type in safetensors' words: F32, BF16, F8_E4M3, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int
    """The byte behind its last."""


def tensors_of(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of a folder by name. FolderError for files that are missing, broken or contradict each other."""
    found: dict[str, TensorEntry] = {}
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            if name in found:
                raise FolderError(
                    f"{name} is in two files, {found[name].file.name} and {file.name}; remove the one that is out of "
                    "date"
                )
            found[name] = entry
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights. FolderError where there are none, or it is not clear which."""
    single, index = folder / SINGLE, folder / INDEX
    named = _files_of_index(index) if index.is_file() else None
    if single.is_file():
        if named is not None and set(named) != {SINGLE}:
            raise FolderError(
                f"{SINGLE} and {INDEX}, which names other files ({named[0]}), are both there: transformers reads the "
                "first, SGLang what the second names; remove the one that is out of date"
            )
        return [single]
    if named is not None:
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise FolderError(f"{len(missing)} of {len(named)} weight files are missing, first {missing[0]}")
        return [folder / name for name in named]
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    if not files:
        older = any(folder.glob("*.bin"))
        raise FolderError(
            "only .bin files; save it with transformers in safetensors form" if older else "no weights (*.safetensors)"
        )
    return files


def _files_of_index(index: Path) -> list[str]:
    """Names of the files that an index names, sorted."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise FolderError(f"{index} has no weight_map from tensors to files")
    names = sorted(set(files.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise FolderError(f"{index} names a file of another folder, {outside[0]}")
    return names


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file. FolderError for a file that is not whole.

    Source: https://github.com/huggingface/safetensors#format
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            start = opened.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(b"version "):
                raise FolderError(f"{file.name} is a pointer of Git LFS, not the weights; fetch them with git lfs pull")
            if len(start) < 8 or not 2 <= length <= min(size - 8, _HEADER_MOST):
                raise FolderError(f"{file.name} is not a whole safetensors file; fetch or copy it again")
            header = json.loads(opened.read(length))
    except OSError as error:
        raise FolderError(f"{file.name} cannot be read ({error.strerror})") from error
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FolderError(f"{file.name} is not a safetensors file (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise FolderError(f"{file.name} is not a safetensors file (its header is not a mapping)")
    header.pop("__metadata__", None)
    entries = {name: _entry(file, name, about, 8 + length) for name, about in header.items()}
    end = max((entry.end for entry in entries.values()), default=8 + length)
    if end != size:
        raise FolderError(
            f"{file.name} is not whole: its header tells of {end} bytes, the file has {size}; fetch or copy it again"
        )
    return entries


def _entry(file: Path, name: str, about: Any, offset: int) -> TensorEntry:
    try:
        dtype, shape, (start, end) = about["dtype"], tuple(about["shape"]), about["data_offsets"]
        fits = all(type(number) is int and number >= 0 for number in (*shape, start, end)) and start <= end
        if dtype in _BYTES:
            fits = fits and end - start == math.prod(shape) * _BYTES[dtype]
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise FolderError(f"{file.name}: what its header says of {name} is not a tensor; fetch or copy it again")
    return TensorEntry(file, str(dtype), shape, offset + start, offset + end)


def same_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors are the same, number by number. OSError when the disk refuses."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(_blocks(one), _blocks(other), strict=True))


def _blocks(entry: TensorEntry, at_most: int = 2**24) -> Iterator[bytes]:
    with open(entry.file, "rb") as file:
        file.seek(entry.start)
        left = entry.end - entry.start
        while left:
            block = file.read(min(left, at_most))
            if not block:
                raise OSError(f"{entry.file} ended early")
            left -= len(block)
            yield block
