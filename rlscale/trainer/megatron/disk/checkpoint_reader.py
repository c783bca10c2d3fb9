"""Reading a distributed checkpoint, and why it cannot be read: it is of another model, or it is damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from rlscale.config.errors import UserError

_DAMAGE = (OSError, EOFError, pickle.UnpicklingError, json.JSONDecodeError, UnicodeDecodeError)
"""What torch and Megatron raise for a file that is missing, cut short or overwritten."""

_NO_COMMON = "has no attribute 'iterdir'"
"""What Megatron's own slip says where common.pt is missing."""

_WORDS_OF_DAMAGE = ("PytorchStreamReader", "weights_only", "Weights only", "metadata is None", _NO_COMMON)
"""What the others of their errors, which are of no type of their own, say of such a file."""


def read_state(folder: str | Path, state: dict[str, Any], instead: str = "") -> dict[str, Any]:
    """The state with the folder's tensors. Collective. UserError if they do not fit; `instead` says what could be done.

    UserError also for a damaged folder, of which nothing else is to be made.
    """
    with _reading(folder, instead):
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder))
    return loaded


def read_common(folder: str | Path) -> dict[str, Any]:
    """What every rank has of a checkpoint besides tensors. UserError for a damaged folder."""
    with _reading(folder):
        common: dict[str, Any] = dist_checkpointing.load_common_state_dict(str(folder))
    return common


def read_index(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its tensors, by name. UserError for a damaged folder."""
    with _reading(folder):
        return dict(FileSystemReader(folder).read_metadata().state_dict_metadata)


@contextmanager
def _reading(folder: str | Path, instead: str = "") -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # the second is a BaseException, for reasons of its own
        cause: BaseException = error
        if isinstance(error, CheckpointException):
            cause = min(error.failures.items())[1][0]
        if _is_damage(cause):
            raise UserError(
                f"{folder} is damaged ({_reason(cause)}); use another checkpoint, or a copy of this one that is whole"
            ) from error
        if isinstance(error, (CheckpointingException, CheckpointException, KeyError)):
            raise UserError(f"{folder} does not fit this model ({_reason(cause)}){instead}") from error
        raise


def _is_damage(cause: BaseException) -> bool:
    return isinstance(cause, _DAMAGE) or any(words in str(cause) for words in _WORDS_OF_DAMAGE)


def _reason(cause: BaseException) -> str:
    if isinstance(cause, OSError) and cause.strerror:
        return f"{Path(cause.filename).name}: {cause.strerror}" if cause.filename else cause.strerror
    if _NO_COMMON in str(cause):
        return "common.pt is missing"
    text = str(cause.args[0] if cause.args else cause).partition(": [")[0]  # a list of all names may follow
    first = (text.strip().splitlines() or [type(cause).__name__])[0].partition(". ")[0]
    return first[:200]
