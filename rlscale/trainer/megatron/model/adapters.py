"""The adapters of a model: `model.lora` put on its linears, everything else frozen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.config.schema.lora_config import LoraConfig, LoraInit
from rlscale.families.family import Form, Rule, dimensions
from rlscale.families.linears import is_of_expert, is_target, module, rules_to_adapt
from rlscale.trainer.adapter_base import mark_of
from rlscale.trainer.megatron.model.adapted_linears import adapt
from rlscale.trainer.megatron.model.freezing import keep_gradients_flowing
from rlscale.trainer.megatron.model.grouped_low_rank import GroupedLowRank, mark_as_expert
from rlscale.trainer.megatron.model.low_rank import Cut, Factors, LowRank, Part
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import EXPERTS, ModelGroups, named_parameters

_CUTS = {0: Cut.column, 1: Cut.row, None: Cut.whole}


class Kept(Protocol):
    """A weight of the base that is not there as numbers."""

    parts: Mapping[str, Tensor]
    """The tensors that stand for it."""

    def value(self) -> Tensor:
        """What it is worth."""


@dataclass(frozen=True)
class Adapters:
    """The adapters of this rank's chunks."""

    lora: LoraConfig
    base: str
    """Folder of the model that they stand on."""
    mark: str
    """Of the weights there when these were read: they may be gone, or others, when adapters are saved."""
    by_weight: Mapping[str, LowRank]
    """By Megatron's name of the linear's weight, with layers counted over the whole model."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """The weights of the base that are codes and scales (`model.lora.base`), by such names."""

    def factors(self) -> Iterator[tuple[str, Factors]]:
        """(Hugging Face's name of a linear, its A and B), in an order that tensor-parallel ranks share."""
        for adapter in self.by_weight.values():
            for part in adapter.parts:
                if part.factors is not None:
                    yield part.name, part.factors

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained."""
        return [parameter for _, factors in self.factors() for parameter in (factors.a, factors.b)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the model is the one without adapters. Forward passes only."""
        try:
            for adapter in self.by_weight.values():
                adapter.enabled = False
            yield
        finally:
            for adapter in self.by_weight.values():
                adapter.enabled = True

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """This rank's part of a weight with what its adapter adds, rounded once; the weight itself without one."""
        adapter, kept = self.by_weight.get(name), self.kept.get(name)
        weight = weight if kept is None else kept.value()
        return weight if adapter is None else (weight.float() + adapter.delta()).to(weight.dtype)


@torch.no_grad()
def add_adapters(
    chunks: Sequence[Any], weights: WeightMap, spec: TrainerSpec, groups: ModelGroups, *, trained: bool
) -> Adapters:
    """Freeze the model and put adapters on it, before Megatron's DDP is put around it. Collective.

    A is the same in every layout: it follows from the seed and the linear's name. UserError for a model or layout that
    leaves some rank without an adapter.
    """
    lora, seed = spec.model.lora, spec.seed
    assert lora is not None, "nobody asked for adapters"
    rules = {rule.megatron for rule in rules_to_adapt(weights.config, lora.targets)}
    by_weight: dict[str, LowRank] = {}
    for chunk in chunks:
        names = {id(parameter): name for name, parameter in named_parameters([chunk], groups.expert)}
        for linear in list(chunk.modules()):
            own = {
                names[id(weight)]: _adapter(names[id(weight)], weight, weights, lora, seed, groups, chunk.config)
                for weight in linear.parameters(recurse=False)
                if _is_adapted(names[id(weight)], weights, rules, lora)
            }
            by_weight |= own
            if own and EXPERTS in next(iter(own)):
                adapt(linear, GroupedLowRank([*own.values()], groups.expert_tensor))
            elif own:
                adapt(linear, *own.values())
        chunk.requires_grad_(False)
    adapters = Adapters(lora, spec.init_path, _mark_of(spec.init_path), by_weight)
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, len(by_weight))
    if not all(counts):
        raise UserError(
            "model.lora.targets leaves a pipeline stage, or the model, without a linear to train; name more"
        )
    for parameter in adapters.parameters():
        parameter.requires_grad_(trained)
    for chunk in chunks:
        keep_gradients_flowing(chunk)
    return adapters


def _is_adapted(name: str, weights: WeightMap, rules: set[str], lora: LoraConfig) -> bool:
    if not name.rpartition(".")[2].startswith("weight") or weights.rule(name).megatron not in rules:
        return False  # a norm's, or of what has no adapter
    return any(is_target(module(hf), lora.targets) for hf in weights.hf_names(name))


def _adapter(
    name: str, weight: Tensor, weights: WeightMap, lora: LoraConfig, seed: int, groups: ModelGroups, config: Any
) -> LowRank:
    rule = weights.rule(name)
    cut, sizes = _CUTS[rule.split], dimensions(weights.config)
    expert = is_of_expert(rule)
    group = groups.expert_tensor if expert else groups.tensor
    ranks, own = group.size(), group.rank()
    if rule.form is Form.gate_up and len(rule.hf) == 1 and ranks > 1:
        raise UserError(f"model.lora.targets: {weights.hf_names(name)[0]} needs parallel.tensor=1")
    parts = []
    for hf, tensor in zip(weights.hf_names(name), rule.hf, strict=True):
        outputs, inputs = (sizes[size] for size in tensor.shape)
        rows = outputs // ranks if cut is Cut.column else outputs
        factors = None
        if is_target(module(hf), lora.targets):
            a = _drawn(module(hf), lora, inputs, seed)
            a = a.chunk(ranks, dim=1)[own].contiguous() if cut is Cut.row else a
            dtype = weight.dtype if lora.dtype is None else getattr(torch, lora.dtype.value)
            b = torch.zeros(rows, lora.rank)
            a, b = (x.to(device=weight.device, dtype=dtype) for x in (a, b))
            factors = Factors(a, b, cut, config.sequence_parallel and not expert)
            if expert:
                mark_as_expert(factors, weight, own)
        parts.append(Part(module(hf), rows, factors))
    order = _order(name, rule, weights, own, ranks, weight.device)
    group = None if expert else group
    return LowRank(parts, order, cut, lora.alpha / lora.rank, group, sequence_parallel=config.sequence_parallel)


def _drawn(name: str, lora: LoraConfig, inputs: int, seed: int) -> Tensor:
    """A new matrix A [rank, inputs], float32."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    if lora.init is LoraInit.gaussian:
        return torch.randn(lora.rank, inputs, generator=generator) / lora.rank
    return (2 * torch.rand(lora.rank, inputs, generator=generator) - 1) / math.sqrt(inputs)


def _order(name: str, rule: Rule, weights: WeightMap, own: int, ranks: int, device: torch.device) -> Tensor | None:
    """Where each of Megatron's rows on this rank is among the rank's rows of the parts; None where it is the same."""
    if len(rule.hf) == 1 and rule.form in (Form.plain, Form.gate_up):
        return None
    sizes, first, places = dimensions(weights.config), 0, []
    for tensor in rule.hf:
        rows = sizes[tensor.shape[0]] // ranks
        place = torch.full((sizes[tensor.shape[0]], 1), -1)
        place[own * rows : (own + 1) * rows, 0] = torch.arange(first, first + rows)
        places.append(place)
        first += rows
    order = weights.shard(name, weights.from_hf(name, places), own, ranks)[:, 0]
    assert int(order.min()) >= 0, f"{name}: its rows on a rank are no plain cut of Hugging Face's"
    return order.to(device)


def _mark_of(base: str) -> str:
    try:
        return mark_of(base)
    except (OSError, ValueError) as error:
        raise UserError(f"the weights in {base}, which adapters stand on, cannot be read: {error}") from error
