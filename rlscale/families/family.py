"""What is known of a family: the keys of its config.json, and its tensors with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class FolderError(ValueError):
    """A model folder that is not understood; the message names the file and what to do."""


class Kind(Enum):
    """What a key of config.json takes. As strict as transformers 5: 16.0 is not a size, "false" not a flag."""

    size = "a whole number above 0"
    count = "a whole number of at least 0"
    number = "a number of at least 0 with a decimal point"
    positive = "a number above 0"
    fraction = "a number between 0 and 1 with a decimal point"
    flag = "true or false"
    text = "a text"
    token = "a token id"
    tokens = "a token id or a list of them"
    numbers = "a list of whole numbers"
    texts = "a list of texts"
    mapping = "a mapping"


@dataclass(frozen=True)
class Key:
    """One key of config.json."""

    kind: Kind
    default: Any = None
    """What transformers takes where the key is not given."""
    needed: bool = False
    """Whether a folder must give it: a size that no default can know."""
    null: bool = False
    """Whether null may be given, which is as if the key were not there."""
    null_is_none: bool = False
    """Whether null says that there is none of it, and takes the default away."""
    defines: bool = False
    """Whether a different value makes a different model, whose weights do not fit."""
    most: int = 2**31 - 1
    """The largest whole number that can be meant."""


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
    gated_qkv = "gated_qkv"
    """The same, with a gate for every query: Hugging Face has it behind the query's head, Megatron behind a group's."""
    gate_up = "gate_up"
    """Gate and up projections, one above the other, in two tensors or one."""
    delta_projections = "delta_projections"
    """Of a gated delta net, which Hugging Face has in two tensors by key head: query, key, value, output gate, and what
    is added and stays; Megatron has each for all heads, one above the other."""
    delta_convolution = "delta_convolution"
    """Filters over its queries, keys and values, one above the other."""


EXPERT_COUNTS = ("num_local_experts", "n_routed_experts", "num_experts")
"""Keys under which configs count the experts of a layer; a completed config has the last one."""


LINEAR, FULL = "linear_attention", "full_attention"
"""Kinds of layers, in a config's `layer_types`: with a gated delta net, and with attention to all tokens."""

CHOOSING, SHARING = "full", "shared"
"""Kinds of layers with sparse attention, in a config's `indexer_types`: with an indexer, and with the choice of the
layer before."""


@dataclass(frozen=True)
class Reach:
    """How many tokens attention sees at most."""

    tokens: int
    key: str
    """The key of config.json that says so."""


class Layers(Enum):
    """Which layers have a parameter."""

    every = "every"
    dense = "dense"
    """Those without experts, which come first."""
    sparse = "sparse"
    """Those with experts."""
    linear = "linear"
    """Those with a gated delta net."""
    full = "full"
    """Those with attention, in a model with gated delta nets."""
    choosing = "choosing"
    """Those whose attention chooses the tokens it sees; the others see what the layer before them chose."""
    predicting = "predicting"
    """The one behind them that predicts a token further (multi-token prediction)."""


LAYER, HF = "decoder.layers.{layer}.", "model.layers.{layer}."
"""What names of a layer's parameters begin with, in Megatron and in Hugging Face's files."""


@dataclass(frozen=True)
class HFTensor:
    """A tensor of the folder."""

    name: str
    """Its name, with `{layer}` and `{expert}`."""
    shape: tuple[str, ...]
    """Its sizes by their names, see `dimensions`."""


@dataclass(frozen=True)
class Rule:
    """One kind of parameter."""

    megatron: str
    """Megatron's name with `{layer}` and `{expert}`, both counted over the whole model."""
    hf: tuple[HFTensor, ...]
    """The tensors that form it."""
    form: Form = Form.plain
    split: int | None = None
    """Dimension that tensor parallelism splits; None where every rank holds all of it."""
    optional: bool = False
    """Whether a folder may lack the tensors; the parameter then stays as it was made."""
    when: str | None = None
    """Key of the config that must be true for a model to have the parameter."""
    layers: Layers = Layers.every
    """Which layers have it, where its name has a `{layer}`."""
    beside: str | None = None
    """The parameter whose tensors engines put together with these: both are in one bucket of an update."""
    frozen: bool = False
    """Whether nothing trains it: a buffer in Megatron and transformers, float32 whatever the model's type."""

    def numbers(self, config: Mapping[str, Any]) -> Sequence[int]:
        """The layers that have it, from 0, by a completed config; a single 0 for what is outside the layers."""
        if "{layer}" not in self.megatron:
            return range(1)
        layers, dense = config["num_hidden_layers"], dense_layers(config)
        match self.layers:
            case Layers.dense:
                return range(dense)
            case Layers.sparse:
                return range(dense, layers)
            case Layers.linear | Layers.full:
                kind = LINEAR if self.layers is Layers.linear else FULL
                return [layer for layer in range(layers) if config["layer_types"][layer] == kind]
            case Layers.choosing:
                return [layer for layer, kind in enumerate(config["indexer_types"]) if kind == CHOOSING]
            case Layers.predicting:
                return range(layers, layers + 1)
            case Layers.every:
                return range(layers)


@dataclass(frozen=True)
class Family:
    """A family of models that the trainer knows."""

    model_type: str
    """Hugging Face's name of it."""
    keys: Mapping[str, Key]
    """The keys of its config.json that are understood. Others change nothing: transformers ignores them, too."""
    rules: tuple[Rule, ...]
    """Its parameters, the head left out."""
    language_class: str
    """The class of transformers and SGLang that reads a policy."""
    value_class: str | None
    """The class of transformers that reads a critic; None where it has none, and then there are no critics."""
    sglang_module: str
    """The module under sglang/srt/models that serves it."""
    restrictions: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...]
    """What its configs can say and the trainer does not support, see `rlscale.families.restrictions`."""
    megatron: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...]
    """Megatron's options of a completed config, part by part, see `rlscale.families.megatron_options`."""
    experts: bool = False
    """Whether its layers have experts."""
    tokenizer_classes: Mapping[str, str] = field(default_factory=dict)
    """By the class that a folder's tokenizer_config.json names, the class of transformers that its AutoTokenizer makes.
    What is not here is left to that, whose import computes for 3 s."""
    own_head_dim: int | None = None
    """Size of a head where the config does not give it; None for hidden size over heads."""
    rotary_share: float = 1.0
    """Share of a head that rotary positions turn where the config does not give it."""
    latent: bool = False
    """Whether keys and values are made of a compressed form that all heads share, see `latent_attention`."""
    delta_net: bool = False
    """Whether most layers have a gated delta net instead of attention, see `gated_delta_net`. Such a layer needs all
    tokens of a sequence on one rank: there is no context parallelism."""
    reach: Callable[[Mapping[str, Any]], Reach | None] | None = None
    """How many tokens attention sees at most, by a completed config, see `rlscale.families.reach`; None: always all."""
    sparse: bool = False
    """Whether indexers choose the tokens that attention sees, see `sparse_attention`."""
    carried: tuple[Rule, ...] = ()
    """Tensors of its folders that the trainer computes nothing with: exports have them as the folder has them, and
    engines read them there."""
    mtp: tuple[Rule, ...] = ()
    """What the layer that predicts a token further has besides the parameters of a decoder layer; none where it cannot
    be trained."""
    kept: str | None = None
    """What the names of tensors of a module that predicts further tokens begin with; None where that is a layer.
    Exports have them as the folder has them, unless they are trained."""
    engine_reads: tuple[str, ...] = ()
    """Keys of config.json that SGLang reads and transformers leaves out of a config that it writes."""
    engine_alone: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json that SGLang computes with, and neither transformers nor the trainer; and what changes nothing
    there. Another value is refused, null too unless it is what changes nothing."""
    other_names: tuple[str, ...] = ()
    """Further values of `model_type` under which folders of this architecture are published, with code of their own:
    neither transformers nor SGLang knows them. The code is not run."""
    adapters: bool = False
    """Whether SGLang computes with adapters of its linears outside MLPs of mixtures as the trainer does."""
    norms_behind: bool = False
    """Whether attention and MLP have norms behind them, too, before what they compute is added."""

    @property
    def of_transformer_engine(self) -> bool:
        """Whether Transformer Engine has its layers: none has norms behind its linears, latent attention or a delta net
        as packed sequences need them."""
        return not (self.norms_behind or self.latent or self.delta_net)

    def rules_of(self, config: Mapping[str, Any]) -> tuple[Rule, ...]:
        """The parameters that a model with this completed config has, the head left out."""
        return tuple(rule for rule in self.rules if rule.when is None or config[rule.when])

    def transformer_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What Megatron's TransformerConfig is told of a completed config of this family."""
        options: dict[str, Any] = {}
        for part in self.megatron:
            options |= part(config)
        return options

    def unsupported(self, config: Mapping[str, Any]) -> Iterator[str]:
        """A line for each thing that a completed config of this family says and the trainer does not support."""
        for restriction in self.restrictions:
            yield from restriction(config)
        for key, nothing in self.engine_alone.items():
            if key in config and config[key] != nothing:
                yield (
                    f"{key} is not supported for {self.model_type}: SGLang computes with it, and neither transformers "
                    "nor the trainer; remove it if the model is meant to be what transformers computes"
                )


def dense_layers(config: Mapping[str, Any]) -> int:
    """Layers without experts that come before those with them, in a mixture of experts."""
    return min(int(config.get("first_k_dense_replace") or 0), int(config["num_hidden_layers"]))


def dimensions(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that shapes are made of, from a completed config of a known family."""
    head, heads = int(config["head_dim"]), int(config["num_attention_heads"])
    query, value = int(config.get("qk_head_dim", head)), int(config.get("v_head_dim", head))
    key_heads, value_heads = (int(config.get(f"linear_num_{kind}_heads") or 0) for kind in ("key", "value"))
    keys = key_heads * int(config.get("linear_key_head_dim") or 0)
    values = value_heads * int(config.get("linear_value_head_dim") or 0)
    shared = config.get("shared_expert_intermediate_size") or int(config.get("n_shared_experts") or 0) * int(
        config.get("moe_intermediate_size") or 0
    )
    query_rank, key_rank = int(config.get("q_lora_rank") or 0), int(config.get("kv_lora_rank") or 0)
    return {
        "vocabulary": int(config["vocab_size"]),
        "hidden": int(config["hidden_size"]),
        "twice_hidden": 2 * int(config["hidden_size"]),
        "inner": int(config["intermediate_size"]),
        "gate_and_up": 2 * int(config["intermediate_size"]),
        "head": head,
        "query": heads * query,
        "query_and_gate": 2 * heads * query,
        "key": int(config["num_key_value_heads"]) * query,
        "query_rank": query_rank,
        "key_rank": key_rank,
        "key_rank_and_rotary": key_rank + head,
        "key_and_value": heads * (query - head + value),
        "attended": heads * value,
        "experts": int(config.get("num_experts") or 0),
        "expert_inner": int(config.get("moe_intermediate_size") or 0),
        "shared_inner": int(shared),
        "indexer_heads": int(config.get("index_n_heads") or 0),
        "indexer_head": int(config.get("index_head_dim") or 0),
        "indexer_query": int(config.get("index_n_heads") or 0) * int(config.get("index_head_dim") or 0),
        "delta_keys": keys,
        "delta_values": values,
        "delta_heads": value_heads,
        "delta_head": int(config.get("linear_value_head_dim") or 0),
        "delta_projected": 2 * keys + 2 * values,
        "delta_gates": 2 * value_heads,
        "delta_convolved": 2 * keys + values,
        "convolution": int(config.get("linear_conv_kernel_dim") or 0),
        "one": 1,
    }
