"""The matrix of layouts: what is compared with one rank, and how far each is from it. The benchmark prints it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import driven
import layout_scenario
import numpy as np
from rank_pool import RankPool
from routing_scenarios import with_experts
from scenarios import whole_column
from tiny_models import DEEP, EXPERTS, SIZES
from training_data import divide_for, make_batch, make_spec

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import Recompute, RoutingReplay, TrainerConfig
from rlscale.trainer.trainer_spec import TrainerSpec

STEPS = 4
"""Optimizer steps after which weights are compared (PPO: 8, two batches of two steps and two epochs)."""
COMPARED_METRICS = (
    *("tokens", "entropy", "ppo_kl", "ratio_max", "kl", "logprob_diff_mean"),
    *("expert_load_max", "expert_load_idle", "routing_replayed", "routing_changed"),
)
LARGE_EPS = 1e-3
"""So large an eps of Adam that it does not blow differences of rounding up where gradients are almost zero."""
CLIP = 0.05
"""A bound far below the gradient norm of every step, with which Adam's large eps makes the moves smaller too."""
OVERLAPS = {"overlap_grad_reduce": True, "overlap_param_gather": True}
SHORT = {
    "tensor": "TP",
    "sequence": "SP",
    "pipeline": "PP",
    "virtual_pipeline": "VPP",
    "context": "CP",
    "expert": "EP",
    "expert_tensor": "ETP",
    "data": "DP",
}


@dataclass(frozen=True)
class Layout:
    """A way to spread a model over ranks."""

    model: str
    """A kind of model: see the fixture `models`."""
    algorithm: str
    """A key of training_data.ALGORITHMS, or ppo."""
    parallel: dict[str, Any] = field(default_factory=dict)
    """Sizes of `parallel.*`."""
    distributed_optimizer: bool = False
    """Also with both overlaps."""
    recompute: Recompute = Recompute.none
    dtype: DType = DType.float32
    replay: bool = False
    """Random experts that are replayed."""
    eps: float = LARGE_EPS
    """Adam's; PPO's is the large one in any case."""
    clip_grad: float = 0.0
    """Bound on the gradient norm, 0 for none; PPO has none in any case."""

    @property
    def ranks(self) -> int:
        """Ranks that it takes."""
        return int(np.prod([self.parallel.get(name, 1) for name in ("tensor", "pipeline", "context", "data")]))

    @property
    def sizes(self) -> str:
        """Its sizes as 'TP 2 + SP, PP 2'."""
        parts = [f"{SHORT[name]} {size}" for name, size in self.parallel.items() if name != "sequence"]
        text = ", ".join(parts).replace("TP 2", "TP 2 + SP", 1) if "sequence" in self.parallel else ", ".join(parts)
        extras = ["distributed optimizer, overlaps"] if self.distributed_optimizer else []
        extras += [f"recompute {self.recompute.value}"] if self.recompute is not Recompute.none else []
        extras += ["replay"] if self.replay else []
        extras += [f"eps {self.eps:g}"] if self.eps != LARGE_EPS else []
        extras += [f"clip {self.clip_grad:g}"] if self.clip_grad else []
        extras += [self.dtype.value] if self.dtype is not DType.float32 else []
        return "; ".join([text or "one rank", *extras])

    @property
    def name(self) -> str:
        """Its name as a test."""
        return f"{self.model}-{self.algorithm}-{self.sizes}"

    @property
    def baseline(self) -> Layout:
        """The same on one rank, in fp32."""
        return Layout(self.model, self.algorithm, replay=self.replay, eps=self.eps, clip_grad=self.clip_grad)

    def spec(self, models: dict[str, Path]) -> TrainerSpec:
        """The trainer's spec of it."""
        trainer = TrainerConfig(
            distributed_optimizer=self.distributed_optimizer,
            recompute=self.recompute,
            ddp=OVERLAPS if self.distributed_optimizer else {},
            routing_replay=RoutingReplay.rollout if self.replay else RoutingReplay.none,
        )
        options: dict[str, Any] = {"parallel": self.parallel, "trainer": trainer, "dtype": self.dtype}
        if self.algorithm == "ppo":
            return driven.spec_of(driven.shipped("ppo"), models, self.model, **options)
        optim = OptimConfig(lr=1e-3, eps=self.eps, clip_grad=self.clip_grad)
        return make_spec(models[self.model], self.algorithm, optim=optim, **options)


TP, SP, PP, CP = {"tensor": 2}, {"tensor": 2, "sequence": True}, {"pipeline": 2}, {"context": 2}
VPP, EP, DP = {"pipeline": 2, "virtual_pipeline": 2}, {"expert": 2}, {"data": 2}
ETP = {"expert_tensor": 2}

TWO_RANKS = [
    Layout("dense", "grpo", TP),
    Layout("dense", "grpo_kl", SP),
    Layout("tied", "grpo_kl", SP),
    Layout("dense", "sft", TP),
    Layout("dense", "grpo_kl", PP),
    Layout("tied", "grpo_kl", PP),
    Layout("deep", "grpo_kl", VPP),
    Layout("deep_moe", "grpo_kl", VPP),
    Layout("deep_moe", "grpo_kl", VPP, replay=True),
    Layout("dense", "grpo_kl", CP, recompute=Recompute.selective),
    Layout("dense", "gspo", CP),
    Layout("dense", "grpo_kl", DP),
    Layout("dense", "gspo", DP),
    Layout("dense", "grpo_kl", DP, distributed_optimizer=True),
    Layout("moe", "grpo_kl", EP | DP),
    Layout("moe", "grpo_kl", EP | DP, distributed_optimizer=True),
    Layout("moe", "grpo_kl", EP | CP),
    Layout("moe", "grpo_kl", SP),
    Layout("moe", "grpo_kl", SP | EP),
    Layout("moe", "grpo_kl", SP | ETP),
    Layout("moe", "grpo_kl", ETP | DP),
    Layout("moe", "grpo_kl", PP),
    Layout("moe", "grpo_kl", SP | EP, replay=True),
    Layout("moe", "grpo_kl", EP | CP, recompute=Recompute.full, replay=True),
    Layout("dense", "grpo_kl", SP, eps=OptimConfig().eps),
    Layout("moe", "grpo_kl", EP | DP, eps=OptimConfig().eps),
    Layout("dense", "grpo_kl", SP, clip_grad=CLIP),
    Layout("dense", "grpo_kl", PP, clip_grad=CLIP),
    Layout("moe", "grpo_kl", EP | DP, distributed_optimizer=True, clip_grad=CLIP),
]
FOUR_RANKS = [
    Layout("dense", "grpo_kl", SP | PP),
    Layout("dense", "grpo_kl", SP | CP),
    Layout("moe", "grpo_kl", CP | EP | DP),
    Layout("moe", "grpo_kl", SP | {"expert": 4} | DP, distributed_optimizer=True),
    Layout("moe", "grpo_kl", SP | EP | PP, replay=True),
    Layout("deep", "ppo", SP | PP),
]
MORE_ON_FOUR_RANKS = [
    Layout("tied", "grpo_kl", TP | PP),
    Layout("deep", "grpo_kl", SP | VPP, recompute=Recompute.full),
    Layout("deep", "grpo_kl", {"pipeline": 4}),
    Layout("dense", "gspo", TP | CP),
    Layout("tied", "grpo_kl", PP | CP),
    Layout("dense", "grpo_kl", TP | DP),
    Layout("deep", "grpo_kl", VPP | DP, distributed_optimizer=True),
    Layout("dense", "grpo_kl", CP | DP),
    Layout("dense", "gspo", {"context": 4}),
    Layout("moe", "grpo_kl", {"context": 2, "expert": 4, "data": 2}, distributed_optimizer=True),
    Layout("moe", "grpo_kl", SP | EP | DP),
    Layout("moe", "grpo_kl", SP | EP | ETP | DP),
    Layout("moe", "grpo_kl", SP | EP | PP),
    Layout("moe", "grpo_kl", SP | EP | CP),
    Layout("moe", "grpo_kl", SP | EP | CP, replay=True),
    Layout("moe", "ppo", CP | EP | DP),
]
"""Measured by benchmarks/layouts.py, which prints the table of docs/trainer_evidence.md; too many for each test run."""
SIXTEEN_BITS = [
    Layout(model, "grpo_kl", parallel, dtype=dtype)
    for dtype in (DType.bfloat16, DType.float16)
    for model, parallel in (("dense", {}), ("dense", SP), ("moe", {}), ("moe", EP | DP))
]


@dataclass(frozen=True)
class Differences:
    """How far a layout is from one rank, the worst over its ranks."""

    loss: float
    """Largest difference of an iteration's loss, relative to it (to 0.1 if it is smaller: GRPO's first loss is 0)."""
    grad_norm: float
    """Of its gradient norm, relative."""
    gradients: float
    """Largest difference of a parameter's gradient after the first iteration, relative to its largest value; of a norm
    before a softmax relative to a fiftieth of the largest value of all, if its own is smaller."""
    logprobs: float
    """Largest difference of a log-prob before the first step."""
    weights: float
    """Largest difference of an exported weight after the last step."""
    metrics: float
    """Of the other metrics, relative (absolute where they are below 1)."""

    def worst(self, other: Differences) -> Differences:
        """The larger of each."""
        return Differences(*(largest([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def measure(
    layout: Layout, pool: RankPool, models: dict[str, Path], one_rank: dict[str, Any], iterations: int = 2
) -> Differences:
    """Train under a layout and compare every rank with the result of its baseline."""
    results = run(layout, pool, models, iterations)
    differences = [compare(result, one_rank) for result in results]
    worst = differences[0]
    for other in differences[1:]:
        worst = worst.worst(other)
    return worst


def run(layout: Layout, pool: RankPool, models: dict[str, Path], iterations: int = 2) -> list[dict[str, Any]]:
    """Each rank's metrics, log-probs (of the whole batch), gradients and weights.

    `iterations` are PPO's, each of four steps of policy and critic; the others' are those of four steps.
    """
    spec = layout.spec(models)
    if layout.algorithm == "ppo":
        batches = [driven.segmented(spec.algo, seed) for seed in range(iterations)]
        results = pool.run(driven.train, spec, batches, world_size=layout.ranks)
        for result in results:
            result["metrics"] = [iteration["metrics"] for iteration in result["iterations"]]
            result["logprobs"] = result["iterations"][0]["columns"]["old_logprobs"]
        return results
    batches = [make_batch(spec.algo, seed=seed) for seed in range(STEPS // spec.algo.steps_per_iteration)]
    if layout.replay:
        layers = DEEP if layout.model.startswith("deep") else SIZES["num_hidden_layers"]
        batches = [with_experts(batch, layers, EXPERTS["num_experts"]) for batch in batches]
    parts = [divide_for(batch, spec) for batch in batches]
    results = pool.run(layout_scenario.train, spec, parts, world_size=layout.ranks)
    column = whole_column(parts[0], batches[0], [result["logprobs"] for result in results])
    return [result | {"logprobs": column} for result in results]


BEFORE_SOFTMAX = ("q_norm.weight", "k_norm.weight")
"""Norms whose small gradients are the differences of large sums: they are as exact as these, on every processor."""


def compare(got: dict[str, Any], expected: dict[str, Any]) -> Differences:
    """What a rank computed beside what one rank alone did. ValueError if they computed different things."""
    for name in ("gradients", "weights"):
        if set(got[name]) != set(expected[name]):
            raise ValueError(f"{name} of other tensors: {set(got[name]) ^ set(expected[name])}")

    def metric(name: str, scale: Callable[[float], float] = abs) -> float:
        pairs = zip(got["metrics"], expected["metrics"], strict=True)
        return largest(abs(g[name] - e[name]) / scale(e[name]) for g, e in pairs if name in e)

    summed = largest(np.abs(gradient).max() for gradient in expected["gradients"].values()) / 50
    return Differences(
        loss=largest(metric(name, lambda value: max(abs(value), 0.1)) for name in ("loss", "critic_loss")),
        grad_norm=largest([metric("grad_norm"), metric("critic_grad_norm")]),
        gradients=largest(
            np.abs(got["gradients"][name] - gradient).max()
            / max(np.abs(gradient).max(), summed if name.endswith(BEFORE_SOFTMAX) else 1e-30)
            for name, gradient in expected["gradients"].items()
        ),
        logprobs=float(np.abs(got["logprobs"] - expected["logprobs"]).max()),
        weights=largest(np.abs(got["weights"][n] - w).max() for n, w in expected["weights"].items()),
        metrics=largest(metric(name, lambda value: max(abs(value), 1.0)) for name in COMPARED_METRICS),
    )


def largest(differences: Iterable[float]) -> float:
    """The largest, 0 of none; NaN if one is (Python's max would drop it unless it came first)."""
    return float(np.max([0.0, *differences]))
