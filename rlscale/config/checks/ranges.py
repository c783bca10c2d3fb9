"""The range of every number, in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rlscale.config.checks.limits import past_limit
from rlscale.config.compose import plain
from rlscale.config.schema import Config

RANGES = {
    "model.parameters": "(0, inf)",
    "model.create.seed": "[0, inf)",
    "parallel.tensor": "[1, inf)",
    "parallel.pipeline": "[1, inf)",
    "parallel.virtual_pipeline": "[2, inf)",
    "parallel.context": "[1, inf)",
    "parallel.expert": "[1, inf)",
    "parallel.expert_tensor": "[1, inf)",
    "parallel.data": "[1, inf)",
    "algo.kl.coef": "[0, inf)",
    "algo.advantage.gamma": "[0, 1]",
    "algo.advantage.lam": "[0, 1]",
    "algo.loss.eps_low": "[0, 1]",
    "algo.loss.eps_high": "[0, inf)",
    "algo.loss.dual_clip": "(1, inf)",
    "algo.loss.tau_positive": "(0, inf)",
    "algo.loss.tau_negative": "(0, inf)",
    "algo.correction.lower": "[0, inf)",
    "algo.correction.upper": "(0, inf)",
    "algo.correction.opsm_delta": "(0, inf)",
    "algo.correction.rejection.lower": "[0, inf)",
    "algo.correction.rejection.upper": "(0, inf)",
    "algo.correction.rejection.veto": "(0, 1)",
    "algo.distil_coef": "[0, inf)",
    "algo.overlong.penalty": "[0, inf)",
    "algo.overlong.cache_tokens": "[1, inf)",
    "algo.refill.max_dropped": "(0, inf)",
    "algo.entropy_coef": "[0, inf)",
    "algo.steps_per_iteration": "[1, inf)",
    "algo.epochs_per_iteration": "[1, inf)",
    "rollout.groups_per_iteration": "[1, inf)",
    "rollout.samples_per_group": "[1, inf)",
    "rollout.max_prompt_tokens": "[1, inf)",
    "rollout.max_response_tokens": "[1, inf)",
    "rollout.temperature": "(0, inf)",
    "rollout.top_p": "(0, 1]",
    "rollout.max_staleness": "[0, inf)",
    "rollout.max_concurrent": "[1, inf)",
    "rollout.request_timeout_s": "(0, inf)",
    "rollout.step_timeout_s": "(0, inf)",
    "rollout.request_retries": "[0, inf)",
    "rollout.max_failure_rate": "[0, 1]",
    "rollout.engines": "[1, inf)",
    "rollout.gpus_per_engine": "[1, inf)",
    "cluster.nodes": "[1, inf)",
    "cluster.gpus_per_node": "[0, inf)",
    "cluster.rollout_nodes": "[0, inf)",
    "cluster.rollout_gpus": "[0, inf)",
    "cluster.max_trainer_ranks": "[1, inf)",
    "cluster.max_engines": "[1, inf)",
    "cluster.memory_gb": "(0, inf)",
    "cluster.start_timeout_s": "(0, inf)",
    "cluster.call_timeout_s": "(0, inf)",
    "cluster.engine_restarts": "[0, inf)",
    "data.max_number": "[2, inf)",
    "data.held_out_share": "(0, 1)",
    "data.size": "[1, inf)",
    "data.seed": "[0, inf)",
    "data.split_seed": "[0, inf)",
    "data.max_bad_rate": "[0, 1]",
    "eval.data.max_bad_rate": "[0, 1]",
    "eval.data.max_number": "[2, inf)",
    "eval.data.held_out_share": "(0, 1)",
    "eval.data.size": "[1, inf)",
    "eval.data.seed": "[0, inf)",
    "eval.data.split_seed": "[0, inf)",
    "reward.timeout_s": "(0, inf)",
    "reward.workers": "[0, inf)",
    "reward.max_failure_rate": "[0, 1]",
    "optim.lr": "(0, inf)",
    "optim.min_lr": "[0, inf)",
    "optim.warmup_steps": "[0, inf)",
    "optim.decay_steps": "[1, inf)",
    "optim.weight_decay": "[0, inf)",
    "optim.beta1": "[0, 1)",
    "optim.beta2": "[0, 1)",
    "optim.eps": "(0, inf)",
    "optim.clip_grad": "[0, inf)",
    "optim.reset_every": "[0, inf)",
    "trainer.max_tokens_per_microbatch": "[1, inf)",
    "trainer.peak_tflops": "(0, inf)",
    "trainer.threads": "[1, inf)",
    "trainer.max_skipped_steps": "[0, inf)",
    "critic.warmup_iterations": "[0, inf)",
    "critic.clip": "(0, inf)",
    "weights.bucket_mb": "[1, inf)",
    "weights.verify_every": "[0, inf)",
    "weights.canary_tokens": "[2, inf)",
    "weights.canary_bound": "(0, inf)",
    "weights.max_logprob_diff": "(0, inf)",
    "weights.timeout_s": "(0, inf)",
    "eval.every": "[0, inf)",
    "eval.prompts": "[1, inf)",
    "eval.samples_per_prompt": "[1, inf)",
    "eval.temperature": "[0, inf)",
    "eval.top_p": "(0, 1]",
    "eval.max_response_tokens": "[1, inf)",
    "checkpoint.every": "[0, inf)",
    "checkpoint.keep": "[1, inf)",
    "run.iterations": "[1, inf)",
    "run.seed": "[0, inf)",
    "run.stop_loss": "(0, inf)",
    "run.report_samples": "[0, inf)",
    "run.report_samples_every": "[0, inf)",
}
"""Interval of each number: [ and ] belong to it, ( and ) do not."""

RANGES |= {
    f"critic.{key}": interval for key, interval in RANGES.items() if key.startswith(("model.", "optim.", "trainer."))
}

UNBOUNDED = (
    "eval.success_reward",
    "rollout.top_k",
    "eval.top_k",
)
"""Numbers that any value suits, or that have a check of their own."""


def out_of_range(config: Config) -> Iterator[str]:
    """One line for each number outside its interval, and for each that is not finite."""
    tree = plain(config)
    inside = []
    for key, interval in RANGES.items():
        value = _value(tree, key)
        if key.startswith("critic.") and repr(value) == repr(_value(tree, key.removeprefix("critic."))):
            continue  # it follows the policy's, which is said already
        inside.append((key, value))
        if isinstance(value, int | float) and not isinstance(value, bool) and not _inside(value, interval):
            finite = "" if math.isfinite(value) else "a finite number, "
            yield f"{key}={value}: must be {finite}{_words(interval)}"
            inside.pop()
    yield from past_limit(inside)
    for key in UNBOUNDED:
        value = _value(tree, key)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key}={value}: must be a finite number"
    for key in ("rollout.top_k", "eval.top_k"):
        top_k = _value(tree, key)
        if top_k != -1 and top_k < 1:
            yield f"{key}={top_k}: must be at least 1, or -1 to switch it off"


_LARGEST = 10**300
"""Whole numbers past it have no place among floats, and are as good as infinite."""


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, dict):
            return None
        tree = tree.get(part)
    if isinstance(tree, int) and abs(tree) > _LARGEST:
        return math.inf if tree > 0 else -math.inf
    return tree


def _inside(value: float, interval: str) -> bool:
    low, high = _bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return math.isfinite(value) and above and below


def _bounds(interval: str) -> tuple[float, float]:
    low, _, high = interval[1:-1].partition(",")
    return float(low), float(high)


def _words(interval: str) -> str:
    low, high = _bounds(interval)
    above = f"{'at least' if interval[0] == '[' else 'above'} {low:g}"
    if math.isinf(high):
        return above
    return f"{above} and {'at most' if interval[-1] == ']' else 'below'} {high:g}"
