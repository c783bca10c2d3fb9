"""Reading a distributed checkpoint, and why it cannot be read: it is of another model, or it is damaged.

Megatron's own way, with two things in the place of torch's: the index that was read already, and a reader of objects
that runs none of them (`code_in_checkpoint.py`).
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedStateDict, ShardedTensor, StateDict
from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreLoadPlanner,
    TorchDistLoadShardedStrategy,
    _replace_sharded_keys_with_state_dict_keys,
    _replace_state_dict_keys_with_sharded_keys,
    _restore_dict_types,
    _unwrap_pyt_sharded_tensor,
    mcore_to_pyt_state_dict,
)
from torch.distributed import checkpoint
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.disk.code_in_checkpoint import plain_object, read_common
from rlscale.weights.checkpoint_index import CheckpointReader

_DAMAGE = (OSError, EOFError, pickle.UnpicklingError, json.JSONDecodeError, UnicodeDecodeError)
"""What torch and Megatron raise for a file that is missing, cut short or overwritten."""

_WORDS_OF_DAMAGE = ("PytorchStreamReader", "weights_only", "Weights only", "metadata is None")
"""What the others of their errors, which are of no type of their own, say of such a file."""


def read_state(folder: str | Path, index: Metadata, state: dict[str, Any], instead: str = "") -> dict[str, Any]:
    """The state with the folder's tensors. Collective. UserError if they do not fit; `instead` says what could be done.

    `index`: what `refuse_code` returned. UserError also for a damaged folder, of which nothing else is to be made.
    """
    with _reading(folder, instead):
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder), _Sharded(index), _Common())
    return loaded


class _Common(TorchCommonLoadStrategy):
    """Megatron's reader of common.pt, whose restrictions a variable of the environment turns off."""

    def load_common(self, checkpoint_dir: str | Path) -> StateDict:
        return read_common(checkpoint_dir)


class _Planner(MCoreLoadPlanner):
    """Megatron's, which has torch read objects with the unpickler that runs code."""

    folder = Path()

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        assert self.metadata is not None
        file = self.folder / self.metadata.storage_data[read_item.storage_index].relative_path
        where = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, where, plain_object(value.getvalue(), file))


class _Sharded(TorchDistLoadShardedStrategy):
    """Megatron's reader of the ranks' files, by an index that was read before."""

    def __init__(self, index: Metadata) -> None:
        super().__init__()
        self._index = index

    def load(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: Path) -> StateDict:
        """As Megatron's own, but for reader and planner."""
        shards = [one for one in nested_values(sharded_state_dict) if isinstance(one, ShardedTensor)]
        own, flat, renamed = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict)
        content = mcore_to_pyt_state_dict(own, True)
        planner = _Planner(
            shapes_validation_sharded_tensors=[one for one in shards if not one.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors={one.key: one for one in shards if one.allow_shape_mismatch},
        )
        planner.folder = Path(checkpoint_dir)
        with warnings.catch_warnings():
            # Megatron calls it too: `load`, which is to replace it, gathers the names of all ranks first.
            warnings.filterwarnings("ignore", "`load_state_dict` is deprecated", FutureWarning)
            checkpoint.load_state_dict(content, CheckpointReader(checkpoint_dir, self._index), planner=planner)
        read = {name: _unwrap_pyt_sharded_tensor(one) for name, one in content.items()}
        loaded: StateDict = _replace_sharded_keys_with_state_dict_keys(read, flat, renamed)
        _restore_dict_types(loaded, sharded_state_dict)
        return loaded


@contextmanager
def _reading(folder: str | Path, instead: str = "") -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # the second is a BaseException, for reasons of its own
        cause: BaseException = error
        if isinstance(error, CheckpointException):
            cause = min(error.failures.items())[1][0]
        if isinstance(cause, UserError):
            raise cause from error
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
    text = str(cause.args[0] if cause.args else cause).partition(": [")[0]  # a list of all names may follow
    first = (text.strip().splitlines() or [type(cause).__name__])[0].partition(". ")[0]
    return first[:200]
