"""Floating-point operations of a model's steps, by formula, and what the device could do at most.

A multiplication with an addition counts as two. Of a forward pass over a segment of n tokens, m of which are trainable:

    2 n P + 2 m h V + 2 L H (d + e) n (n + 1) / 2 + 6 n D G k v

P: parameters of the layers' matrices that a token is multiplied with, of a mixture of experts those of the experts that
it is sent to, and the router; h: hidden size; V: vocabulary (the output projection is made where log-probs are asked
for; a critic's head makes one value of every token, m = n and V = 1); L: layers with attention; H: heads; d, e: size of
a key and of a value. In attention a token's query meets its own key and those before it, and is multiplied with keys
and with values. D: layers with a gated delta net; G: heads of one; k, v: size of a key and of a value, between which
each head has a matrix: a token's key reads it, key and value are added to it, its query reads it.

A backward pass counts as two forward passes. What is computed again (`trainer.recompute`, tiles of logits) is not
counted, nor are norms, softmax, padding, the optimizer. A frozen matrix counts as a trained one. A trained layer that
predicts a token further is one more layer, and makes the output projection once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlscale.config.schema.model_config import DType
from rlscale.families.family import LINEAR, Head
from rlscale.families.tensors import visited_parameters
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.model.architecture import Architecture

STEP, ADAPTER_STEP = 3, 2
"""A forward and a backward pass, in forward passes; and where only adapters, which are small, have gradients."""

PEAKS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}
"""Dense bfloat16 matrix products of GPUs, by words of their name, in 1e12 FLOPs/s, from NVIDIA's data sheets (halved
where those count sparse ones). The first whose words are there counts."""


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of a forward pass of one model."""

    per_token: float
    """Matrices of the layers, and those that gated delta nets keep, for one token."""
    per_output: float
    """The output projection, for one position."""
    per_pair: float
    """Attention of all layers, for one query and one key that it sees."""
    outputs_everywhere: bool
    """Whether every position has an output (a critic), not only the trainable ones."""

    @classmethod
    def of(cls, architecture: Architecture, head: Head, *, mtp: bool = False) -> ModelFlops:
        """Those of an architecture with such a head; `mtp`: and with a layer that predicts a token further."""
        hf = {**architecture.hf, "num_experts": architecture.experts}
        hidden, vocabulary = int(hf["hidden_size"]), architecture.vocabulary
        values, heads = head is Head.value, int(hf["num_attention_heads"])
        layers, nets, matrices = int(hf["num_hidden_layers"]) + mtp, 0, 0
        if architecture.family.delta_net:
            nets = [*hf["layer_types"]].count(LINEAR)
            matrices = hf["linear_num_value_heads"] * hf["linear_key_head_dim"] * hf["linear_value_head_dim"]
        return cls(
            per_token=2.0 * (visited_parameters(hf, mtp=mtp) - vocabulary * hidden) + 6.0 * nets * matrices,
            per_output=2.0 * hidden * (1 if values else vocabulary) * (1 + mtp),
            per_pair=2.0 * (layers - nets) * heads * (int(hf["qk_head_dim"]) + int(hf["v_head_dim"])),
            outputs_everywhere=values,
        )

    def forward(self, lengths: NDArray[np.int64], outputs: int) -> float:
        """FLOPs of one pass over segments of these lengths [segments] with that many trainable tokens."""
        tokens = float(lengths.sum())
        pairs = float((lengths * (lengths + 1) / 2).sum())
        positions = tokens if self.outputs_everywhere else float(outputs)
        return self.per_token * tokens + self.per_output * positions + self.per_pair * pairs

    def share(self, microbatches: Iterable[MicroBatch], context_ranks: int) -> float:
        """A context-parallel rank's share of one forward pass; the sum over those ranks is the whole.

        Tensor- and pipeline-parallel ranks have the same numbers, which are those of the whole model.
        """
        total = 0.0
        for microbatch in microbatches:
            lengths = microbatch.sequences.lengths
            total += self.forward(lengths, len(microbatch.trainable) * context_ranks) / context_ranks
        return total


def peak_flops(platform: Platform, dtype: DType, given_tflops: float | None) -> float | None:
    """FLOPs/s that a device can do at most; None where that is unknown: on a CPU, an unknown GPU, or in float32."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if not platform.is_cuda or dtype is DType.float32:
        return None
    return peak_of_name(torch.cuda.get_device_name(platform.device))


def peak_of_name(gpu: str) -> float | None:
    """FLOPs/s in 16 bits of a GPU by the name that CUDA gives it."""
    return next((tflops * 1e12 for name, tflops in PEAKS.items() if re.search(rf"\b{name}\b", gpu)), None)
