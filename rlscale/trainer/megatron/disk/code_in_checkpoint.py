"""Refusing a checkpoint that would run code, before torch and Megatron read it.

Three things in a distributed checkpoint are pickles: `.metadata` (`rlscale.weights.checkpoint_index`), common.pt, and
objects that are not tensors (random states) inside the ranks' files. torch reads the last with an unpickler that calls
whatever they name, and runs TorchScript that lies there. So each is read here by one that knows only what such a
checkpoint is made of: the folder may be somebody else's. What that cannot read is refused, whatever the reason.
"""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from rlscale.config.errors import UserError
from rlscale.families.inner_file import inner_file
from rlscale.weights.checkpoint_index import read_index, unreadable

COMMON = "common.pt"
"""Megatron's file of what every rank has besides tensors."""


def refuse_code(folder: str | Path, part: int = 0, parts: int = 1) -> Metadata:
    """The checkpoint's index. UserError naming the file that would run code, or that is no part of such a checkpoint.

    Of the objects in the ranks' files each of `parts` readers looks at its own `part`. Tensors that are missing or cut
    short pass: that is said where they are read.
    """
    folder = Path(folder)
    index = read_index(folder)
    if (folder / COMMON).exists():
        read_common(folder)
    objects = sorted(
        (place.relative_path, place.offset, place.length)
        for key, place in index.storage_data.items()
        if isinstance(index.state_dict_metadata.get(key.fqn), BytesStorageMetadata)
    )
    for name, offset, length in objects[part::parts]:
        _read_plain(folder, name, offset, length)
    return index


def read_common(folder: str | Path) -> dict[str, Any]:
    """What every rank has of a checkpoint besides tensors. UserError for code, and for a damaged file."""
    common = _read_plain(Path(folder), COMMON)
    if not isinstance(common, dict):
        raise _error(Path(folder) / COMMON, "")
    return common


def plain_object(content: bytes, file: Path) -> Any:
    """What was saved as these bytes of `file`: tensors, arrays and Python's own types. UserError for anything else."""
    known: list[Any] = [np.ndarray, np.dtype, np.dtypes.UInt32DType]
    rebuild = np.zeros(0).__reduce__()[0]  # NumPy's own function; its module has another name in NumPy 1
    known += [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript: that it would be run, which it is not
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, found, named = str(error).partition("GLOBAL ")
        raise _error(file, named.split()[0] if found else "") from error
    except Exception as error:  # damage, TorchScript, archives of old: torch's other readers would take some of them
        raise unreadable(file, error) from error


def _read_plain(folder: Path, name: str, offset: int = 0, size: int = -1) -> Any:
    """The object in (a part of) a file of the checkpoint."""
    try:
        with open(inner_file(folder, name), "rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise unreadable(folder / name, error) from error
    return plain_object(content, folder / name)


def _error(path: Path, name: str) -> UserError:
    what = f"names code to be run ({name})" if name else "holds what a checkpoint does not"
    return UserError(f"{path} {what}; rlscale did not write it so, and does not read it")
