"""How far each number may go before it can only be a slip, and why there is an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limit:
    """The last values that mean something, and why there is an end."""

    most: float
    why: str
    least: float = 0.0
    """Smallest value other than 0; the range of the number says whether 0 is one."""


def _all(keys: str, limit: Limit) -> dict[str, Limit]:
    return dict.fromkeys(keys.split(), limit)


_WEIGHT = Limit(1e3, "a term of the loss that weighs more drowns all others")
_RATIO = Limit(1e6, "no ratio of two policies that are alike comes near it")
_TEMPERATURE = "logits are divided by it: smaller ones are greedy (eval.temperature=0 is), larger ones pure chance"
_IN_MEMORY = Limit(1e6, "the samples of an iteration are held in memory")
_TOKENS = Limit(1e7, "no model has as many positions")
_PROCESSES = "each is a process of its own"
_DEVICES = Limit(1e5, "no cluster has as many devices")
_YEAR = Limit(31_536_000, "that is a year; set it to what you are ready to wait", least=1e-3)
_COUNT = Limit(1e9, "no run gets as far")
_SEED = Limit(2**32 - 1, "seeds have 32 bits")

LIMITS = {
    **_all("optim.lr optim.min_lr", Limit(1.0, "Adam moves every weight by up to the learning rate in each step")),
    "optim.weight_decay": Limit(100.0, "a step takes the learning rate times this off every weight"),
    "optim.eps": Limit(1.0, "it is added to the root of Adam's second moment, in float32", least=1e-30),
    "optim.clip_grad": Limit(1e9, "no gradient is as long; 0 switches clipping off", least=1e-9),
    **_all("optim.warmup_steps optim.decay_steps optim.reset_every", _COUNT),
    "rollout.temperature": Limit(100.0, _TEMPERATURE, least=0.01),
    "eval.temperature": Limit(100.0, _TEMPERATURE, least=0.01),
    **_all("rollout.groups_per_iteration rollout.samples_per_group", _IN_MEMORY),
    **_all("eval.prompts eval.samples_per_prompt", Limit(1e7, "an evaluation's samples are held in memory")),
    **_all("rollout.max_prompt_tokens rollout.max_response_tokens eval.max_response_tokens", _TOKENS),
    **_all("algo.overlong.cache_tokens trainer.max_tokens_per_microbatch weights.canary_tokens", _TOKENS),
    **_all("algo.kl.coef algo.distil_coef algo.entropy_coef algo.overlong.penalty", _WEIGHT),
    **_all("algo.loss.eps_high algo.loss.dual_clip critic.clip", _RATIO),
    **_all("algo.loss.tau_positive algo.loss.tau_negative", Limit(1e3, "the gate becomes a step", least=1e-3)),
    **_all("algo.correction.lower algo.correction.upper algo.correction.opsm_delta", _RATIO),
    **_all("algo.correction.rejection.lower algo.correction.rejection.upper", _RATIO),
    "algo.refill.max_dropped": Limit(1e3, "an iteration would generate as many times its groups"),
    **_all("algo.steps_per_iteration algo.epochs_per_iteration", Limit(1e5, "no batch bears as many steps")),
    **_all("rollout.max_staleness rollout.request_retries cluster.engine_restarts", Limit(1e4, "nobody waits for it")),
    "rollout.max_concurrent": Limit(1e5, "no engine takes as many requests at once"),
    **_all("rollout.engines rollout.gpus_per_engine cluster.nodes cluster.gpus_per_node", _DEVICES),
    **_all("cluster.rollout_nodes cluster.rollout_gpus parallel.virtual_pipeline", _DEVICES),
    **_all("parallel.tensor parallel.pipeline parallel.context parallel.data", _DEVICES),
    **_all("parallel.expert parallel.expert_tensor", _DEVICES),
    **_all("cluster.max_trainer_ranks cluster.max_engines", Limit(1024, f"{_PROCESSES} that fills a core")),
    "reward.workers": Limit(1024, _PROCESSES),
    "trainer.threads": Limit(1024, "no machine has as many cores"),
    "cluster.memory_gb": Limit(1e6, "no machine has as much memory"),
    **_all("cluster.start_timeout_s cluster.call_timeout_s rollout.request_timeout_s rollout.step_timeout_s", _YEAR),
    **_all("reward.timeout_s weights.timeout_s", _YEAR),
    **_all("data.max_number eval.data.max_number", Limit(3000, "all pairs of numbers are listed in memory")),
    **_all("data.size eval.data.size", Limit(9e6, "there are no more pairs of numbers")),
    **_all("run.seed data.seed eval.data.seed model.create.seed", _SEED),
    **_all("data.split_seed eval.data.split_seed", _SEED),
    **_all("run.iterations critic.warmup_iterations eval.every checkpoint.every weights.verify_every", _COUNT),
    **_all("run.report_samples_every", _COUNT),
    **_all("checkpoint.keep trainer.max_skipped_steps", _COUNT),
    "run.stop_loss": Limit(1e3, "no mean loss is as large", least=1e-9),
    "run.report_samples": Limit(1e4, "the report would be too large to open"),
    "trainer.peak_tflops": Limit(1e6, "it counts 1e12 products per second"),
    "weights.bucket_mb": Limit(1e5, "a bucket is held in memory, twice"),
    **_all("weights.canary_bound weights.max_logprob_diff", Limit(1e3, "no log-prob differs by as much")),
    "model.parameters": Limit(1e15, "no model has as many"),
}
LIMITS |= {f"critic.{key}": limit for key, limit in LIMITS.items() if key.startswith(("model.", "optim.", "trainer."))}
"""By key; those whose range has an end of its own are not here."""


def past_limit(values: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """One line for each (key, value) past its limit; what is not a finite number, or below 0, is left to the ranges."""
    for key, value in values:
        limit = LIMITS.get(key)
        if limit is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value > limit.most:
            yield f"{key}={value:.10g}: is above {limit.most:.10g}: {limit.why}"
        elif 0 < value < limit.least:
            yield f"{key}={value:.10g}: is below {limit.least:.10g}: {limit.why}"
