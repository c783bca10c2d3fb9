"""The adapter of a model as engines get it, by itself (`weights.lora=adapter`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlscale.families.family import dimensions
from rlscale.families.linears import is_of_expert, linear_rules, module
from rlscale.trainer.megatron.disk.adapter_folder import peft_config
from rlscale.trainer.megatron.model.adapter_tensors import peft_name, peft_tensors
from rlscale.trainer.megatron.model.adapters import Adapters
from rlscale.weights.bucket import Bucket
from rlscale.weights.parameters import ModelGroups


@dataclass(frozen=True)
class SentAdapter:
    """A source (WeightSource) of whole matrices A and B by peft's names, all in one bucket."""

    adapters: Adapters
    groups: ModelGroups
    model: Mapping[str, Any]
    """The model's Hugging Face config, completed."""

    def config(self, base: str) -> dict[str, Any]:
        """What peft says of it, on the model in the folder `base`."""
        return peft_config(self.adapters.lora, self.model, base)

    def buckets(self, version: int) -> Iterator[Bucket]:
        """See WeightSource."""
        yield Bucket(list(with_siblings(peft_tensors(self.adapters, self.groups), self.model).items()), version)


def with_siblings(tensors: Mapping[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor]:
    """An adapter's tensors, and zeros for what has none while another linear that engines put together with it has.

    SGLang keeps query, key and value in one linear, and gate and up; of an adapter of one of them alone it stops, or
    drops it. `model`: the completed config.
    """
    sizes, whole = dimensions(model), dict(tensors)
    for rule in linear_rules(model):
        for layer in () if is_of_expert(rule) else rule.numbers(model):
            names = [module(tensor.name.format(layer=layer)) for tensor in rule.hf]
            found = next((name for name in names if peft_name(name, "a") in tensors), None)
            if found is None:
                continue
            a, b = tensors[peft_name(found, "a")], tensors[peft_name(found, "b")]
            for name, tensor in zip(names, rule.hf, strict=True):
                whole.setdefault(peft_name(name, "a"), torch.zeros_like(a))
                whole.setdefault(peft_name(name, "b"), b.new_zeros(sizes[tensor.shape[0]], b.shape[1]))
    return whole
