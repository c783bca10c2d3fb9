"""Names and shapes between Hugging Face and Megatron by the tables of `rlscale.families`, exact in both directions.

Our own instead of mbridge's: the same table serves loading, export, weight sync and checkpoints of other tools, needs
neither transformers nor Megatron, and has none of its pitfalls (a class-level table that tied models change for every
later model of the process, rotary base read from where transformers 5 no longer puts it). A test holds both against
each other.

Full tensors are in *Megatron's* form here: query, key and value of a key-value head together; gate above up. A shard is
what one tensor-parallel rank holds of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlscale.families import FAMILIES
from rlscale.families.family import LAYER, Form, Head, Rule, dimensions
from rlscale.families.gated_delta_net import sections
from rlscale.families.multi_token_prediction import predicting_rules
from rlscale.families.tensors import head_rules

_NUMBERS = re.compile(r"\d+")


class WeightMap:
    """The mapping of one model. Built from its Hugging Face config, completed (`families.config_file.complete`)."""

    def __init__(self, hf_config: Mapping[str, Any], head: Head = Head.language, *, mtp: bool = False) -> None:
        """KeyError for a family without a table. A value head is never tied to the embedding.

        `mtp`: whether the model has the layer that predicts a token further, which is then one more layer.
        """
        self.config, self.head, self.mtp = hf_config, head, mtp
        family = FAMILIES[str(hf_config["model_type"])]
        self.tied = head is Head.language and bool(hf_config.get("tie_word_embeddings", False))
        self._rules = {rule.megatron: rule for rule in (*family.rules_of(hf_config), *head_rules(hf_config, head))}
        self._predicting = {rule.megatron: rule for rule in predicting_rules(family, hf_config)} if mtp else {}
        self.vocabulary = int(hf_config["vocab_size"])
        self._groups = int(hf_config["num_key_value_heads"])
        self._head_size = int(hf_config["head_dim"])

    def rule(self, name: str) -> Rule:
        """The rule of a Megatron parameter, named with layers and experts counted over the whole model."""
        rules = self._predicting if self.is_mtp(name) else self._rules
        rule = rules.get(self._template(name)[0])
        if rule is None:
            raise KeyError(f"no rule for the Megatron parameter {name!r}")
        return rule

    def hf_names(self, name: str) -> list[str]:
        """Names of the Hugging Face tensors that form a Megatron parameter."""
        _, numbers = self._template(name)
        return [tensor.name.format(**numbers) for tensor in self.rule(name).hf]

    def is_mtp(self, name: str) -> bool:
        """Whether a Megatron parameter is of the layer that predicts a token further."""
        return self._template(name)[1].get("layer") == str(self.config["num_hidden_layers"])

    def beside(self, name: str) -> str | None:
        """The Megatron parameter whose tensors an engine must get in one bucket with this one's; mostly none."""
        partner = self.rule(name).beside
        return None if partner is None else partner.format(**self._template(name)[1])

    def to_hf(self, name: str, full: Tensor) -> list[tuple[str, Tensor]]:
        """A full Megatron tensor as named Hugging Face tensors (views where possible)."""
        return list(zip(self.hf_names(name), self._take_apart(self.rule(name), full), strict=True))

    def from_hf(self, name: str, tensors: Sequence[Tensor], padded_vocabulary: int | None = None) -> Tensor:
        """The full Megatron tensor that Hugging Face tensors (in the order of `hf_names`) form."""
        form = self.rule(name).form
        if form is Form.delta_projections:
            return self._join_delta(tensors)
        if form is Form.gated_qkv:
            tensors = [self._gates_behind(tensors[0]), *tensors[1:]]
        if form in (Form.qkv, Form.gated_qkv):
            size = self._head_size
            q, k, v = (x.view(self._groups, -1, *x.shape[1:]) for x in tensors)  # matrices or biases
            assert k.shape[1] == v.shape[1] == size, f"{name}: key and value heads of {k.shape[1]}, expected {size}"
            return torch.cat([q, k, v], dim=1).flatten(0, 1)
        if form is Form.gate_up:
            return torch.cat(list(tensors))
        (tensor,) = tensors
        if form is Form.vocabulary and padded_vocabulary and padded_vocabulary > tensor.shape[0]:
            padding = tensor.new_zeros(padded_vocabulary - tensor.shape[0], *tensor.shape[1:])
            return torch.cat([tensor, padding])
        return tensor

    def shard(self, name: str, full: Tensor, rank: int, size: int) -> Tensor:
        """What tensor-parallel rank `rank` of `size` holds of a full tensor."""
        rule = self.rule(name)
        if rule.split is None or size == 1:
            return full
        if (parts := self._parts(rule.form, full)) is not None:
            return torch.cat([part.chunk(size)[rank] for part in parts])
        return full.chunk(size, dim=rule.split)[rank]

    def merge(self, name: str, shards: Sequence[Tensor]) -> Tensor:
        """The full tensor of all ranks' shards."""
        rule = self.rule(name)
        if rule.split is None or len(shards) == 1:
            return shards[0]
        parts = [self._parts(rule.form, shard) for shard in shards]
        if parts[0] is not None:
            return torch.cat([torch.cat(same) for same in zip(*parts, strict=True)])
        return torch.cat(list(shards), dim=rule.split)

    def _parts(self, form: Form, tensor: Tensor) -> Sequence[Tensor] | None:
        """The parts of a full tensor or shard that tensor parallelism splits one by one; None where it is one part."""
        if form is Form.gate_up:
            return tensor.chunk(2)
        if form not in (Form.delta_projections, Form.delta_convolution):
            return None
        rows = sections(form, dimensions(self.config))
        return tensor.split([each * len(tensor) // sum(rows) for each in rows])

    def _take_apart(self, rule: Rule, full: Tensor) -> list[Tensor]:
        if rule.form in (Form.qkv, Form.gated_qkv):
            size = self._head_size
            grouped = full.view(self._groups, -1, *full.shape[1:])
            query, *others = grouped.split([grouped.shape[1] - 2 * size, size, size], dim=1)
            if rule.form is Form.gated_qkv:
                query = self._gates_beside(query)
            return [part.flatten(0, 1) for part in (query, *others)]
        if rule.form is Form.delta_projections:
            return self._separate_delta(full)
        if rule.form is Form.gate_up:
            return list(full.chunk(len(rule.hf)))
        return [full[: self.vocabulary] if rule.form is Form.vocabulary else full]

    def _gates_behind(self, queries: Tensor) -> Tensor:
        """Hugging Face's query projection, a gate behind each head -> of each group the heads, then their gates."""
        heads = queries.view(self._groups, -1, 2, self._head_size, *queries.shape[1:])
        return heads.transpose(1, 2).reshape(queries.shape)

    def _gates_beside(self, grouped: Tensor) -> Tensor:
        """The reverse, of [groups, rows of a group, ...]."""
        halves = grouped.view(self._groups, 2, -1, self._head_size, *grouped.shape[2:])
        return halves.transpose(1, 2).reshape(grouped.shape)

    def _join_delta(self, tensors: Sequence[Tensor]) -> Tensor:
        """A gated delta net's two projections by key head, as one whose parts are whole."""
        heads, rows = self._delta_rows()
        by_head = zip(tensors, (rows[:4], rows[4:]), strict=True)
        parts = [part for x, own in by_head for part in x.view(heads, -1, *x.shape[1:]).split(own, dim=1)]
        return torch.cat([part.flatten(0, 1) for part in parts])

    def _separate_delta(self, full: Tensor) -> list[Tensor]:
        """The reverse."""
        heads, rows = self._delta_rows()
        whole = full.split([heads * each for each in rows])
        parts = [part.view(heads, -1, *part.shape[1:]) for part in whole]
        return [torch.cat(own, dim=1).flatten(0, 1) for own in (parts[:4], parts[4:])]

    def _delta_rows(self) -> tuple[int, list[int]]:
        """Key heads of a gated delta net, and the rows that one has in each part of its projections."""
        heads = int(self.config["linear_num_key_heads"])
        return heads, [rows // heads for rows in sections(Form.delta_projections, dimensions(self.config))]

    @staticmethod
    def _template(name: str) -> tuple[str, dict[str, str]]:
        """'decoder.layers.3.mlp.experts.linear_fc1.weight5' -> its pattern, and {'layer': '3', 'expert': '5'}."""
        if not name.startswith("decoder.layers."):
            return name, {}
        layer, _, rest = name.removeprefix("decoder.layers.").partition(".")
        numbers = {"layer": layer}
        if rest.startswith("mlp.experts."):
            expert = _NUMBERS.findall(rest)[-1]
            numbers["expert"] = expert
            rest = rest.removesuffix(expert) + "{expert}"
        return f"{LAYER}{rest}", numbers
