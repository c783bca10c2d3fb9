"""Names and shapes between Hugging Face and Megatron: one table per family, exact in both directions.

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
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Head(Enum):
    """What stands on the last layer."""

    language = "language"
    """Logits over the vocabulary: a policy, a reference, a teacher."""
    value = "value"
    """One number per position: a critic."""


class Form(Enum):
    """How Hugging Face's tensors form one of Megatron's."""

    plain = "plain"
    """One tensor, as it is."""
    vocabulary = "vocabulary"
    """One tensor; rows of padding are added at the end where tensor parallelism needs them."""
    qkv = "qkv"
    """Query, key and value projections, interleaved by key-value head."""
    gate_up = "gate_up"
    """Gate and up projections, one above the other."""


@dataclass(frozen=True)
class Rule:
    """One kind of parameter."""

    megatron: str
    """Name with `{layer}` and `{expert}`, both counted over the whole model."""
    hf: tuple[str, ...]
    """Names of the tensors that form it."""
    form: Form = Form.plain
    split: int | None = None
    """Dimension that tensor parallelism splits; None where every rank holds all of it."""
    optional: bool = False
    """Whether a folder may lack the tensors; the parameter then stays as it was made."""


_LAYER, _HF = "decoder.layers.{layer}.", "model.layers.{layer}."

_OUTSIDE = (
    Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Form.vocabulary, 0),
    Rule("decoder.final_layernorm.weight", ("model.norm.weight",)),
)
_HEAD = Rule("output_layer.weight", ("lm_head.weight",), Form.vocabulary, 0)
_TIED_HEAD = Rule("output_layer.weight", ("model.embed_tokens.weight",), Form.vocabulary, 0)
_VALUE_HEAD = (  # the names of transformers' ...ForTokenClassification
    Rule("output_layer.weight", ("score.weight",), optional=True),
    Rule("output_layer.bias", ("score.bias",), optional=True),
)

_ATTENTION = (
    Rule(_LAYER + "self_attention.linear_qkv.layer_norm_weight", (_HF + "input_layernorm.weight",)),
    Rule(
        _LAYER + "self_attention.linear_qkv.weight",
        tuple(_HF + f"self_attn.{x}_proj.weight" for x in "qkv"),
        Form.qkv,
        0,
    ),
    Rule(_LAYER + "self_attention.q_layernorm.weight", (_HF + "self_attn.q_norm.weight",)),
    Rule(_LAYER + "self_attention.k_layernorm.weight", (_HF + "self_attn.k_norm.weight",)),
    Rule(_LAYER + "self_attention.linear_proj.weight", (_HF + "self_attn.o_proj.weight",), split=1),
)

_MLP = (
    Rule(_LAYER + "mlp.linear_fc1.layer_norm_weight", (_HF + "post_attention_layernorm.weight",)),
    Rule(
        _LAYER + "mlp.linear_fc1.weight",
        (_HF + "mlp.gate_proj.weight", _HF + "mlp.up_proj.weight"),
        Form.gate_up,
        0,
    ),
    Rule(_LAYER + "mlp.linear_fc2.weight", (_HF + "mlp.down_proj.weight",), split=1),
)

_EXPERT = _HF + "mlp.experts.{expert}."
_EXPERTS = (
    Rule(_LAYER + "pre_mlp_layernorm.weight", (_HF + "post_attention_layernorm.weight",)),
    Rule(_LAYER + "mlp.router.weight", (_HF + "mlp.gate.weight",)),
    Rule(
        _LAYER + "mlp.experts.linear_fc1.weight{expert}",
        (_EXPERT + "gate_proj.weight", _EXPERT + "up_proj.weight"),
        Form.gate_up,
        0,
    ),
    Rule(_LAYER + "mlp.experts.linear_fc2.weight{expert}", (_EXPERT + "down_proj.weight",), split=1),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "qwen3": (*_OUTSIDE, *_ATTENTION, *_MLP),
    "qwen3_moe": (*_OUTSIDE, *_ATTENTION, *_EXPERTS),
}
"""The rules of each family, by Hugging Face's model_type."""

_NUMBERS = re.compile(r"\d+")


class WeightMap:
    """The mapping of one model. Built from its Hugging Face config."""

    def __init__(self, hf_config: Mapping[str, Any], head: Head = Head.language) -> None:
        """KeyError for a family without a table. A value head is never tied to the embedding."""
        rules = RULES[str(hf_config["model_type"])]
        self.tied = head is Head.language and bool(hf_config.get("tie_word_embeddings", False))
        own = _VALUE_HEAD if head is Head.value else (_TIED_HEAD if self.tied else _HEAD,)
        self._rules = {rule.megatron: rule for rule in (*rules, *own)}
        self.vocabulary = int(hf_config["vocab_size"])
        heads = int(hf_config["num_attention_heads"])
        self._groups = int(hf_config.get("num_key_value_heads") or heads)
        self._head_size = int(hf_config.get("head_dim") or hf_config["hidden_size"] // heads)

    def rule(self, name: str) -> Rule:
        """The rule of a Megatron parameter, named with layers and experts counted over the whole model."""
        rule = self._rules.get(self._template(name)[0])
        if rule is None:
            raise KeyError(f"no rule for the Megatron parameter {name!r}")
        return rule

    def hf_names(self, name: str) -> list[str]:
        """Names of the Hugging Face tensors that form a Megatron parameter."""
        _, numbers = self._template(name)
        return [pattern.format(**numbers) for pattern in self.rule(name).hf]

    def to_hf(self, name: str, full: Tensor) -> list[tuple[str, Tensor]]:
        """A full Megatron tensor as named Hugging Face tensors (views where possible)."""
        return list(zip(self.hf_names(name), self._take_apart(self.rule(name).form, full), strict=True))

    def from_hf(self, name: str, tensors: Sequence[Tensor], padded_vocabulary: int | None = None) -> Tensor:
        """The full Megatron tensor that Hugging Face tensors (in the order of `hf_names`) form."""
        form = self.rule(name).form
        if form is Form.qkv:
            size = self._head_size
            q, k, v = (x.view(self._groups, -1, x.shape[-1]) for x in tensors)
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
        if rule.form is Form.gate_up:
            return torch.cat([half.chunk(size)[rank] for half in full.chunk(2)])
        return full.chunk(size, dim=rule.split)[rank]

    def merge(self, name: str, shards: Sequence[Tensor]) -> Tensor:
        """The full tensor of all ranks' shards."""
        rule = self.rule(name)
        if rule.split is None or len(shards) == 1:
            return shards[0]
        if rule.form is Form.gate_up:
            halves = zip(*(shard.chunk(2) for shard in shards), strict=True)
            return torch.cat([torch.cat(half) for half in halves])
        return torch.cat(list(shards), dim=rule.split)

    def _take_apart(self, form: Form, full: Tensor) -> list[Tensor]:
        if form is Form.qkv:
            size = self._head_size
            grouped = full.view(self._groups, -1, full.shape[-1])
            parts = grouped.split([grouped.shape[1] - 2 * size, size, size], dim=1)
            return [part.reshape(-1, full.shape[-1]) for part in parts]
        if form is Form.gate_up:
            return list(full.chunk(2))
        return [full[: self.vocabulary] if form is Form.vocabulary else full]

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
        return f"{_LAYER}{rest}", numbers
