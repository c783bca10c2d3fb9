"""A rank's state as arrays in host memory, from which another process goes on as this one would have.

Ranks of one layout have the same tensors, so that each goes by its place in them. What is made anew alike when ranks
start (gradients, frozen models, the base of adapters) is not copied.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from numpy.typing import NDArray
from torch import Tensor

from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.ranks.random_state import random_state, set_random_state
from rlscale.trainer.megatron.roster.kept_versions import KeptVersions
from rlscale.trainer.megatron.roster.trained_model import TrainedModel
from rlscale.trainer.megatron.steps.optimizer import Optimizer

Arrays = dict[str, NDArray[np.uint8]]
"""The bytes of tensors by name."""

Share = tuple[int, int]
"""Which part of a state, from 0, and of how many."""


def state_key(*, distributed: bool) -> tuple[int, ...]:
    """Where this rank is in the model: ranks with the same key have the same tensors.

    `distributed`: each has a part of the optimizer's state for itself (`trainer.distributed_optimizer`).
    """
    if distributed and parallel_state.get_data_parallel_world_size(with_context_parallel=True) > 1:
        return (torch.distributed.get_rank(),)
    return (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_expert_model_parallel_rank(),
        parallel_state.get_expert_tensor_parallel_rank(),
    )


def copy_of(
    models: Iterable[tuple[str, TrainedModel]], kept: KeptVersions, share: Share | None
) -> tuple[bytes, Arrays]:
    """What a rank has for itself; and its share of what ranks with its key have in common, nothing with None.

    Each of the `models`, the policy among them, has the device as it comes.
    """
    own: dict[str, Any] = {"random": random_state(), "versions": kept.versions}
    arrays: Arrays = {}

    def add(owner: str, tensors: Mapping[str, Tensor]) -> None:
        if share is not None:
            for name in list(tensors)[share[0] :: share[1]]:
                arrays[f"{owner} {name}"] = bytes_of(tensors[name])

    add("kept", _kept_tensors(kept))
    for owner, model in models:
        own[owner] = _numbers_of(model)
        add(owner, tensors_of(model))
    return pickle.dumps(own), arrays


def put_copy(
    own: bytes, parts: Iterable[Arrays], models: Iterable[tuple[str, TrainedModel]], kept: KeptVersions
) -> None:
    """Go on from what `copy_of` gave. RuntimeError if the parts together are not a state of these models."""
    numbers: dict[str, Any] = pickle.loads(own)
    arrays = {name: array for part in parts for name, array in part.items()}

    def put(owner: str, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if (array := arrays.pop(f"{owner} {name}", None)) is None:
                raise RuntimeError(f"the copy of a state lacks {owner} {name}")
            _put_bytes(tensor, array)

    kept.forget()
    for version in numbers["versions"]:
        kept.keep(version)
    put("kept", _kept_tensors(kept))
    for owner, model in models:
        put(owner, tensors_of(model))
        _put_numbers(model, numbers[owner])
    if arrays:
        raise RuntimeError(f"the copy of a state has {len(arrays)} tensors too many, first {min(arrays)}")
    set_random_state(numbers["random"])


def tensors_of(trained: TrainedModel) -> dict[str, Tensor]:
    """Everything that steps change in a model and its optimizer, by a name of its place; the same memory once."""
    trained.model.finish_gathering()
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for name, tensor in (*_of_model(trained.model), *_of_optimizer(trained.optimizer)):
        memory = tensor.data_ptr(), tensor.nbytes
        if tensor.numel() and memory not in seen:
            seen.add(memory)
            found[name] = tensor
    return found


def _numbers_of(trained: TrainedModel) -> dict[str, Any]:
    """What else steps change."""
    optimizer = trained.optimizer
    scale = {} if optimizer.scale is None else optimizer.scale.state_dict()
    return {
        "schedule": optimizer.schedule.state_dict(),
        "loss_scale": {name: value.cpu() if torch.is_tensor(value) else value for name, value in scale.items()},
        "skipped_in_a_row": trained.skipped_in_a_row,
        "steps": [step if isinstance(step := group.get("step"), int) else None for _, group in _groups(optimizer)],
    }


def _put_numbers(trained: TrainedModel, numbers: Mapping[str, Any]) -> None:
    """Go on from what `_numbers_of` gave."""
    optimizer = trained.optimizer
    optimizer.schedule.num_steps = 0  # Megatron adds the steps of a state to those that were made
    optimizer.schedule.load_state_dict(numbers["schedule"])
    if optimizer.scale is not None:
        optimizer.scale.load_state_dict(numbers["loss_scale"])
    trained.skipped_in_a_row = numbers["skipped_in_a_row"]
    for (_, group), step in zip(_groups(optimizer), numbers["steps"], strict=True):
        if step is not None:  # Transformer Engine's Adam counts here
            group["step"] = step


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """A copy of a tensor's values in host memory."""
    copy = tensor.detach().to("cpu", copy=True).reshape(-1)
    array: NDArray[np.uint8] = copy.view(torch.uint8).numpy()
    return array


def _put_bytes(tensor: Tensor, array: NDArray[np.uint8]) -> None:
    """Give a tensor the values that `bytes_of` gave. RuntimeError if they are of another size."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
        values = torch.from_numpy(array).view(tensor.dtype)
    tensor.detach().copy_(values.reshape(tensor.shape))


def _kept_tensors(kept: KeptVersions) -> dict[str, Tensor]:
    return {f"{version} {n}": one for version in kept.versions for n, one in enumerate(kept.tensors(version))}


def _of_model(model: Model) -> Iterator[tuple[str, Tensor]]:
    for number, parameter in enumerate(model.versioned()):
        yield f"parameter {number}", parameter.data
    for number, chunk in enumerate(model.bare):
        for name, buffer in chunk.named_buffers():
            yield f"buffer {number} {name}", buffer


def _of_optimizer(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for place, group in _groups(optimizer):
        inner, *_ = place
        for number, parameter in enumerate(group["params"]):
            name = f"{' '.join(map(str, place[1:]))} {number}"
            yield f"main {name}", parameter.data
            for kind, value in inner.state.get(parameter, {}).items():
                if torch.is_tensor(value):
                    yield f"{kind} {name}", value


def _groups(optimizer: Optimizer) -> Iterator[tuple[tuple[Any, int, int], dict[str, Any]]]:
    """The optimizers' groups of parameters, each with its optimizer and their numbers."""
    for number, chained in enumerate(optimizer.megatron.chained_optimizers):
        inner = getattr(chained, "optimizer", None)
        for place, group in enumerate(inner.param_groups if inner is not None else ()):
            yield (inner, number, place), group
