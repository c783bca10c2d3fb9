"""The policy computing with its weights as engines hold them: quantised, and numbers again.

Engines of quantised weights are not the model that is trained. Whether they have its weights can only be told by
computing with what their codes are worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.families.served_form import ServedForm
from rlscale.trainer.megatron.model.model import Model
from rlscale.weights.encode import encoding_of
from rlscale.weights.parameters import EXPERTS, named_parameters


class ServedWeights:
    """What a model's weights are worth in a form, bit for bit what `EncodedWeights` sends of them."""

    def __init__(self, model: Model, form: ServedForm) -> None:
        self._model, self._form, self._encoding = model, form, encoding_of(form)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model computes with them. Collective; holds a copy of what is quantised."""
        self._model.finish_gathering()
        own: list[tuple[Tensor, Tensor]] = []
        try:
            for name, parameter in named_parameters(self._model.bare, self._model.groups.expert):
                if any(map(self._form.quantises, self._model.weights.hf_names(name))):
                    own.append((parameter, parameter.detach().clone()))
                    parameter.data.copy_(self._rounded(name, parameter.detach()))
            yield
        finally:
            for parameter, kept in own:
                parameter.data.copy_(kept)

    @torch.no_grad()
    def _rounded(self, name: str, shard: Tensor) -> Tensor:
        """This rank's part of a parameter: groups of columns and blocks reach over the parts of several ranks."""
        weights = self._model.weights
        group = self._model.groups.expert_tensor if EXPERTS in name else self._model.groups.tensor
        shards = [shard]
        if group.size() > 1:
            shards = [torch.empty_like(shard) for _ in range(group.size())]
            dist.all_gather(shards, shard.contiguous(), group=group)
        whole = weights.to_hf(name, weights.merge(name, shards))
        rounded = [self._encoding.rounded(tensor) if self._form.quantises(hf) else tensor for hf, tensor in whole]
        return weights.shard(name, weights.from_hf(name, rounded), group.rank(), group.size())
