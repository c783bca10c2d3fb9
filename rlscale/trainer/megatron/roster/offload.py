"""A model's device memory given up while others use it: weights and optimizer state to host memory and back.

It works on the memory under the tensors, not on the tensors: parameters, Megatron's buffers and the optimizer's main
parameters are views of each other, and stay so. Gradients are not kept: between iterations there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlscale.platform.device import host_copy
from rlscale.trainer.megatron.model.fp8_products import drop_copies
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.steps.optimizer import Optimizer


class Offload:
    """Moves a model and its optimizer, if it has one, off the device and back. Both calls may be repeated."""

    def __init__(self, model: Model, optimizer: Optimizer | None = None) -> None:
        self._model, self._optimizer = model, optimizer
        self._kept: list[tuple[torch.UntypedStorage, Tensor]] = []
        self._dropped: list[tuple[torch.UntypedStorage, int, Tensor]] = []

    @property
    def asleep(self) -> bool:
        """Whether the memory is given up."""
        return bool(self._kept)

    def sleep(self) -> None:
        """Give the memory up; the tensors cannot be used until `wake`."""
        if self.asleep:
            return
        self._model.finish_gathering()
        drop_copies(module for chunk in self._model.bare for module in chunk.modules())
        for buffer in self._buffers():
            gradients = buffer.grad_data
            self._dropped.append((gradients.untyped_storage(), gradients.untyped_storage().size(), gradients))
        home = self._model.parameters()[0].device  # an optimizer with `optim.on_host` has its state elsewhere already
        for storage in _distinct(tensor for tensor in self._tensors() if tensor.device == home):
            self._kept.append((storage, host_copy(_bytes_of(storage))))
        for given_up in [storage for storage, *_ in self._kept] + [storage for storage, *_ in self._dropped]:
            given_up.resize_(0)

    def wake(self) -> None:
        """Take the memory again, with everything as it was, and gradients of zero."""
        for storage, host in self._kept:
            storage.resize_(host.numel())
            _bytes_of(storage).copy_(host)
        for storage, size, gradients in self._dropped:
            storage.resize_(size)
            gradients.zero_()
        self._kept, self._dropped = [], []

    def _tensors(self) -> Iterator[Tensor]:
        yield from (parameter.data for parameter in self._model.parameters())
        if self._model.adapters is not None:
            yield from (part for kept in self._model.adapters.kept.values() for part in kept.parts.values())
        yield from (buffer.param_data for buffer in self._buffers() if buffer.param_data is not None)
        for chained in self._optimizer.megatron.chained_optimizers if self._optimizer is not None else ():
            inner = getattr(chained, "optimizer", None)
            if inner is None:
                continue
            yield from (parameter.data for group in inner.param_groups for parameter in group["params"])
            for state in inner.state.values():
                yield from (value for value in state.values() if torch.is_tensor(value) and value.dim())

    def _buffers(self) -> list[Any]:
        chunks = self._model.parallel_chunks
        return [buffer for chunk in chunks for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]


def _distinct(tensors: Iterator[Tensor]) -> list[torch.UntypedStorage]:
    """The memory under the tensors, each piece once."""
    pieces = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors if tensor.numel()}
    return list(pieces.values())


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
