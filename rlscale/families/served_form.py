"""The form in which engines hold the weights: which tensors are codes there, what config.json says, what fits.

Quantised are the projections of attention and of MLPs, those of every expert among them. Never: embedding and output
layer, norms, biases, and whatever chooses experts: routers have few weights and large consequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlscale.families import FAMILIES
from rlscale.families.family import Head, Rule, dimensions
from rlscale.families.quantisation import Quantisation
from rlscale.families.tensors import EMBEDDING, expected_tensors

BLOCK = 128
"""Rows and columns of a block of `fp8_block`."""

MX_GROUP = 32
"""Columns that share a scale in `mxfp8`."""

_PROJECTIONS = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down", "gate_up")}
_JOINED = {f"{name}_proj" for name in ("q", "k", "v", "gate", "up", "gate_up")}
"""Those that an engine holds as one matrix with others."""


class WeightForm(Enum):
    """In which form engines hold the policy's weights."""

    as_trained = "as_trained"
    """Numbers of the model's type."""
    fp8_block = "fp8_block"
    """FP8 (e4m3) with a scale for each block of 128 x 128, as DeepSeek publishes it."""
    fp8_tensor = "fp8_tensor"
    """FP8 (e4m3) with one scale for each tensor."""
    int4 = "int4"
    """Whole numbers of 4 bits with a scale for each group of columns of a row (W4A16 of compressed-tensors)."""
    mxfp8 = "mxfp8"
    """FP8 (e4m3) with a power of two for each 32 columns of a row."""


class Int4Grid(Enum):
    """The whole numbers that int4 uses; which, checkpoints of a model were made with matters for those trained on."""

    symmetric = "symmetric"
    """-7 to 7, the largest of a group is 7 (Kimi-K2-Thinking)."""
    full = "full"
    """-8 to 7, the largest of a group is 7.5, rounded (llm-compressor's default)."""


@dataclass(frozen=True)
class ServedForm:
    """A form with its choices. Plain data."""

    kind: WeightForm = WeightForm.as_trained
    group: int = 32
    """Columns that share a scale, of int4."""
    grid: Int4Grid = Int4Grid.symmetric
    """The whole numbers, of int4."""

    @property
    def quantisation(self) -> Quantisation | None:
        """Which rectangles of a weight share a scale; None where nothing is quantised."""
        match self.kind:
            case WeightForm.fp8_block:
                return Quantisation(None, BLOCK, BLOCK)
            case WeightForm.fp8_tensor:
                return Quantisation(None, 0, 0)
            case WeightForm.int4:
                return Quantisation(4, 1, self.group)
            case WeightForm.mxfp8:
                return Quantisation(None, 1, MX_GROUP)
        return None

    def bytes_per_weight(self, plain: int) -> float:
        """Of one that is quantised, with its share of a scale; `plain`: bytes of one that is not."""
        match self.kind:
            case WeightForm.fp8_block:
                return 1 + 4 / BLOCK**2
            case WeightForm.fp8_tensor:
                return 1.0
            case WeightForm.int4:
                return 0.5 + plain / self.group
            case WeightForm.mxfp8:
                return 1 + 1 / MX_GROUP
        return float(plain)

    def quantises(self, name: str) -> bool:
        """Whether the Hugging Face tensor of that name is codes and scales in this form."""
        return self.kind is not WeightForm.as_trained and name.endswith(".weight") and _module(name) in _PROJECTIONS

    def section(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `quantization_config` of a folder of this form, by the completed config of its model."""
        kept = [name.removesuffix(".weight") for name in self._matrices(config) if not self.quantises(name)]
        if self.kind is WeightForm.int4:
            weights = {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": self.group,
                "dynamic": False,
                "actorder": None,
                "block_structure": None,
                "observer": "minmax",
            }
            group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
            return {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "quantization_status": "compressed",
                "config_groups": {"group_0": group},
                "ignore": kept,
            }
        method = "mxfp8" if self.kind is WeightForm.mxfp8 else "fp8"
        blocks = {WeightForm.fp8_block: [BLOCK, BLOCK], WeightForm.mxfp8: [1, MX_GROUP]}
        size = {"weight_block_size": blocks[self.kind]} if self.kind in blocks else {}
        said = {"quant_method": method, "fmt": "e4m3", "activation_scheme": "dynamic"}
        return said | size | {"modules_to_not_convert": kept}

    def problems(self, config: Mapping[str, Any], ranks: int = 1) -> Iterator[str]:
        """Why engines of that many ranks cannot serve a model in this form, a line each, by its completed config."""
        if self.kind is WeightForm.as_trained:
            return
        family = FAMILIES[str(config["model_type"])]
        if family.latent or family.delta_net:
            yield f"a {family.model_type} is served as_trained only: its attention needs more than codes and scales"
            return
        for rule in family.rules_of(config):
            yield from self._of_rule(rule, config, ranks)

    def _of_rule(self, rule: Rule, config: Mapping[str, Any], ranks: int) -> Iterator[str]:
        sizes = dimensions(config)
        for tensor in rule.hf:
            if not self.quantises(tensor.name) or not rule.numbers(config):
                continue
            rows, columns = (sizes[size] for size in tensor.shape)
            if rule.split == 0:  # key-value heads that are fewer than ranks are copied
                rows = max(rows // ranks, sizes["head"]) if tensor.shape[0] == "key" else rows // ranks
            else:
                columns //= ranks
            parts = 2 if tensor.shape[0] == "gate_and_up" else 1
            yield from self._of_shape(_module(tensor.name), rows // parts, columns)

    def _of_shape(self, module: str, rows: int, columns: int) -> Iterator[str]:
        of_rows = BLOCK if self.kind is WeightForm.fp8_block and module in _JOINED else 1
        of_columns = {WeightForm.fp8_block: BLOCK, WeightForm.mxfp8: MX_GROUP, WeightForm.int4: self.group}
        for size, multiple, what in ((rows, of_rows, "rows"), (columns, of_columns.get(self.kind, 1), "columns")):
            if size % multiple:
                yield f"{module} has {size} {what} on each rank of an engine, which {multiple} does not divide"

    def _matrices(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Names of the model's matrices, the embedding left out."""
        for name, (shape, _) in expected_tensors(config, Head.language).items():
            if len(shape) == 2 and name != EMBEDDING:
                yield name


def _module(name: str) -> str:
    """The module's own name in that of its weight."""
    return name.removesuffix(".weight").rpartition(".")[2]
