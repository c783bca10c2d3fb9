"""Which known name somebody probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

ELSEWHERE = {
    "learning_rate": "optim.lr",
    "batch_size": "rollout.groups_per_iteration",
    "train_batch_size": "rollout.groups_per_iteration",
    "rollout_batch_size": "rollout.groups_per_iteration",
    "n_samples_per_prompt": "rollout.samples_per_group",
    "group_size": "rollout.samples_per_group",
    "num_generations": "rollout.samples_per_group",
    "max_new_tokens": "rollout.max_response_tokens",
    "max_completion_length": "rollout.max_response_tokens",
    "max_prompt_length": "rollout.max_prompt_tokens",
    "kl_coef": "algo.kl.coef",
    "kl_loss_coef": "algo.kl.coef",
    "init_kl_coef": "algo.kl.coef",
    "ppo_epochs": "algo.epochs_per_iteration",
    "gae_lambda": "algo.advantage.lam",
    "cliprange": "algo.loss.eps_high",
    "clip_ratio": "algo.loss.eps_high",
    "clip_ratio_low": "algo.loss.eps_low",
    "clip_ratio_high": "algo.loss.eps_high",
    "clip_ratio_c": "algo.loss.dual_clip",
    "cliprange_value": "critic.clip",
    "value_clip": "critic.clip",
    "critic_lr": "critic.optim.lr",
    "critic_warmup": "critic.warmup_iterations",
    "entropy_coeff": "algo.entropy_coef",
    "tis_imp_ratio_cap": "algo.correction.upper",
    "tool_parser": "rollout.tool_parser",
    "tool_call_parser": "rollout.tool_parser",
    "reasoning_parser": "rollout.reasoning_parser",
    "teacher_path": "teacher.path",
    "num_steps": "run.iterations",
    "total_steps": "run.iterations",
    "epochs": "algo.epochs_per_iteration",
    "tensor_model_parallel_size": "parallel.tensor",
    "tensor_parallel": "parallel.tensor",
    "tp_size": "parallel.tensor",
    "pipeline_model_parallel_size": "parallel.pipeline",
    "pp_size": "parallel.pipeline",
    "context_parallel_size": "parallel.context",
    "expert_model_parallel_size": "parallel.expert",
    "model_path": "model.path",
    "output_dir": "run.output",
    "save_interval": "checkpoint.every",
    "eval_interval": "eval.every",
    "num_gpus": "cluster.gpus_per_node",
}
"""What other frameworks call a key, and what it is called here."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is alike."""
    spelled = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    found = get_close_matches(name.lower().replace("-", "_"), spelled, n=1, cutoff=0.55)
    return spelled[found[0]] if found else None


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known dotted key most like `key`: by its whole name, or by its last part in any section."""
    known = list(known)
    last = key.rpartition(".")[2].lower()
    if (familiar := ELSEWHERE.get(last)) in known:
        return familiar
    scored = [(_likeness(key, candidate), candidate) for candidate in known]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= 0.6 else None


def _likeness(key: str, candidate: str) -> float:
    section, _, name = key.lower().rpartition(".")
    candidate_section, _, candidate_name = candidate.lower().rpartition(".")
    by_name = SequenceMatcher(None, name, candidate_name).ratio()
    if section == candidate_section:
        return by_name + 0.1  # the section was right, so only the name counts, and it counts a little more
    by_section = SequenceMatcher(None, section, candidate_section).ratio()  # decides between like names only
    return max(SequenceMatcher(None, key.lower(), candidate.lower()).ratio(), 0.9 * by_name) + 0.05 * by_section


def did_you_mean(suggestion: str | None, before: str = "; did you mean ") -> str:
    """The tail of a message that names the nearest known name, empty without one."""
    return f"{before}{suggestion}?" if suggestion else ""
