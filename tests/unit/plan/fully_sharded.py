"""What a GPU holds under FSDP2, which prime-rl measured and no run here does, by what the plan knows of a layer.

The plan's are the parameters, what a layer keeps of a token, and what is at work in it. FSDP2's own are said here:
parameters in 32 bits divided over all GPUs, with gradients and Adam's two numbers where they are trained; a layer's
worth of them gathered in 16 bits, and a second one on its way; the embedding gathered, with its gradient. Logits that
are written out, as their supervised runs do, take 16 bytes each: a number taken from their rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlscale.config.composition.published_configs import published
from rlscale.families.config_file import complete
from rlscale.plan.activations import LayerActivations
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout
from rlscale.plan.trainer_memory import GIB

SHIPPED = {
    "Qwen3-0.6B": "Qwen/Qwen3-0.6B",
    "Qwen3-4B-Instruct-2507": "Qwen/Qwen3-4B",
    "Qwen3-30B-A3B-Instruct-2507": "Qwen/Qwen3-30B-A3B",
    "Qwen3-235B-A22B-Instruct-2507": "Qwen/Qwen3-235B-A22B",
    "INTELLECT-3": "zai-org/GLM-4.5-Air",
}
"""Configs of the same sizes."""
TRAINED, FROZEN, LOGIT = 16, 4, 16
CONTEXT = 0.75


def planned_peak(row: Mapping[str, str]) -> float:
    """GiB of a GPU in the run of a row of prime_rl_measured.tsv."""
    shape = ModelShape.of(complete(published()[SHIPPED[row["model"]]]))
    gpus, tokens, trains = int(row["gpus"]), int(row["sequence"]), row["params"] == "full"
    layer = LayerActivations.of(shape, RankLayout(), sparse=bool(shape.experts), on_gpu=True)
    inputs = 0.0 if row["recompute"] == "Offload" else shape.layers * layer.input
    activations = 2 * tokens * (inputs + layer.whole + layer.gradients)
    embedding = shape.hidden * shape.vocabulary
    of_layer = (shape.parameters - 2 * embedding) / shape.layers
    gathered = 2 * 2 * of_layer + (2 + 4 * trains) * embedding if gpus > 1 else 2 * of_layer
    static = shape.parameters * (TRAINED if trains else FROZEN) / gpus
    logits = LOGIT * tokens * shape.vocabulary if row["type"] == "sft" else 0
    return (static + gathered + activations + logits) / GIB + CONTEXT
