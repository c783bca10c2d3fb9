"""Megatron's distributed checkpoint of a model: weights, optimizer, schedule and random state, or weights alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from torch.distributed.checkpoint.metadata import Metadata

from rlscale.config.errors import UserError
from rlscale.families.origin import ARCHITECTURE, CHECKPOINT, architecture_text, check_origin
from rlscale.trainer.adapter_base import ADAPTER
from rlscale.trainer.checksums import damaged, read_sums
from rlscale.trainer.megatron.disk.adapter_checkpoint import (
    adapter_shards,
    adapter_text,
    check_adapter,
    put_adapter,
)
from rlscale.trainer.megatron.disk.checkpoint_reader import read_state
from rlscale.trainer.megatron.disk.checkpoint_writer import CheckpointWriter
from rlscale.trainer.megatron.disk.code_in_checkpoint import read_common, refuse_code
from rlscale.trainer.megatron.disk.optimizer_state import load_state, state_to_load, state_to_save
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.ranks.random_state import random_state, set_random_state
from rlscale.trainer.megatron.steps.optimizer import Optimizer
from rlscale.weights.load import named
from rlscale.weights.parameters import MTP_LAYER, is_of_adapter


def checkpoint_of(
    folder: str | Path, model: Model, optimizer: Optimizer | None = None, *, copy: bool
) -> CheckpointWriter:
    """Plan a checkpoint of this moment; without an optimizer it holds the weights alone. Collective.

    Of a model with adapters it holds these and not the model.

    See CheckpointWriter for `copy` and errors.
    """
    model.finish_gathering()
    weights = _weights(model)
    state = dict(weights)
    if optimizer is not None:
        state["optimizer"] = state_to_save(optimizer.megatron, weights)
        state["schedule"] = optimizer.schedule.state_dict()
        state["random"] = _random_state(random_state())
        state["layout"] = _layout()
    beside = {ARCHITECTURE: architecture_text(model.weights.config)}
    if model.adapters is not None:
        beside[ADAPTER] = adapter_text(model.adapters)
    return CheckpointWriter(folder, state, copy=copy, beside=beside)


def holds_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a closed checkpoint."""
    return (Path(folder) / CHECKPOINT).is_file()


def load_checkpoint(folder: str | Path, model: Model, optimizer: Optimizer) -> None:
    """Take model, optimizer, schedule and random state from a folder. Collective.

    A checkpoint of another layout is read too; the random state then stays as it is. UserError if it does not fit.
    """
    if not holds_checkpoint(folder):
        raise UserError(f"{folder} is not a trainer checkpoint (no metadata.json)")
    index = _refuse_code(folder)
    _is_of(model, folder)
    check_adapter(folder, model)
    common = read_common(folder)
    start = f"model.init={folder}" if model.adapters is None else f"model.lora.path={folder}"
    if "schedule" not in common:
        raise UserError(f"{folder} holds weights alone; start a new run from them: {start}")
    instead = f"; a new run can start from its weights alone: {start}"
    saved = index.state_dict_metadata
    _has_the_layers_of(model, folder, saved)
    state: dict[str, Any] = {"optimizer": state_to_load(optimizer.megatron, _weights(model), saved)}
    same_layout = common.get("layout") == _layout()
    if same_layout:
        state["random"] = _random_state(None)
    loaded = read_state(folder, index, state, instead)
    load_state(optimizer.megatron, loaded["optimizer"])
    # A second read: the optimizer may have to read what the model reads, which Megatron allows only once. It comes last
    # because preparing to load an optimizer on the host (`optim.on_host`) makes a step with random gradients.
    _put_weights(model, read_state(folder, index, _weights(model), instead))
    optimizer.schedule.num_steps = 0  # Megatron adds the steps of a checkpoint to those that were made
    optimizer.schedule.load_state_dict(loaded["schedule"])
    if same_layout:
        set_random_state(loaded["random"][0])


def load_weights_of(folder: str | Path, model: Model) -> None:
    """Take the weights alone (of a model with adapters: theirs) from a checkpoint of any layout. Collective.

    UserError if they do not fit, or if a file is not what was written.
    """
    _refuse_damage(folder)  # first: a byte that was changed may look like the name of a function
    index = _refuse_code(folder)
    _is_of(model, folder)
    check_adapter(folder, model)
    _has_the_layers_of(model, folder, index.state_dict_metadata)
    _put_weights(model, read_state(folder, index, _weights(model)))


def load_base_of(folder: str | Path, model: Model) -> None:
    """The same for the model itself; its adapters, if it has any, stay as they are."""
    load_weights_of(folder, replace(model, adapters=None))


def _is_of(model: Model, folder: str | Path) -> None:
    """UserError for a checkpoint that says that it is of another architecture."""
    with named(Path(folder)):
        check_origin(Path(folder), model.weights.config, model.weights.head, needed=False)


def _has_the_layers_of(model: Model, folder: str | Path, saved: Collection[str]) -> None:
    """UserError where one has a trained layer that predicts a token further and the other does not.

    Megatron reads what the model has: what was trained would be gone without a word.
    """
    has = any(name.startswith(MTP_LAYER) for name in saved)
    if has != model.mtp:
        was, now = ("trained", "frozen") if has else ("frozen", "trained")
        raise UserError(
            f"{folder} was saved with trainer.mtp={was}, but this run has trainer.mtp={now}; set it to {was}"
        )


def _refuse_code(folder: str | Path) -> Metadata:
    """The folder's index. UserError, the same on every rank, if reading the folder would run code. Collective."""
    own, index = "", None
    try:
        index = refuse_code(folder, dist.get_rank(), dist.get_world_size())
    except UserError as error:
        own = str(error)
    everywhere = [""] * dist.get_world_size()
    dist.all_gather_object(everywhere, own)
    if any(everywhere):
        raise UserError(next(filter(None, everywhere)))
    assert index is not None
    return index


def _refuse_damage(folder: str | Path) -> None:
    """UserError, the same on every rank, if a file has another checksum than when it was written. Collective."""
    own = damaged(folder, read_sums(folder), dist.get_rank(), dist.get_world_size())
    everywhere: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, own)
    names = sorted(name for names in everywhere for name in names)
    if names:
        raise UserError(f"{folder} is damaged: {', '.join(names)} is not what was written; use another checkpoint")


def _weights(model: Model) -> dict[str, Any]:
    if model.adapters is not None:
        return {"adapters": adapter_shards(model)}
    # Each layer by its own name: layers of which some are frozen have no state to be stacked with the others'.
    metadata = {"non_homogeneous_layers": True}
    return {
        f"model{number}": {
            name: shard
            for name, shard in chunk.sharded_state_dict(metadata=metadata).items()
            if not _is_extra_state(name) and not is_of_adapter(name)
        }
        for number, chunk in enumerate(model.bare)
    }


def _put_weights(model: Model, loaded: dict[str, Any]) -> None:
    if model.adapters is not None:
        put_adapter(model, loaded["adapters"])
        return
    for number, chunk in enumerate(model.bare):
        fit = chunk.load_state_dict(loaded[f"model{number}"], strict=False)
        unfit = (*fit.missing_keys, *fit.unexpected_keys)
        wrong = [name for name in unfit if not _is_extra_state(name) and not is_of_adapter(name)]
        if wrong:
            raise RuntimeError(f"what was read does not fill the model: {', '.join(wrong)}")


def _is_extra_state(name: str) -> bool:
    """Whether an entry is Transformer Engine's own (scales of 8-bit numbers), which our layers know nothing of."""
    return name.rpartition(".")[2].startswith("_extra_state")


def _layout() -> dict[str, int]:
    """What the random state depends on."""
    return {
        "tensor": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline": parallel_state.get_pipeline_model_parallel_world_size(),
        "context": parallel_state.get_context_parallel_world_size(),
        "expert": parallel_state.get_expert_model_parallel_world_size(),
        "world": dist.get_world_size(),
    }


def _random_state(value: Any) -> ShardedObject:
    """The random state of each rank as one shard of an object over all ranks."""
    return ShardedObject("random", [value], (dist.get_world_size(),), (dist.get_rank(),), replica_id=0)
