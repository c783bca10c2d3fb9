"""Which models a configuration has besides its policy."""

from __future__ import annotations

from rlscale.config.schema.algo import AlgoConfig, CustomAdvantage, GaeAdvantage, KLPlacement

COLUMNS = ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values")
"""What an advantage of one's own may ask for."""


def named_models(algo: AlgoConfig) -> tuple[str, ...]:
    """The models of the trainer by their names, the policy first."""
    others = (("critic", has_critic(algo)), ("reference", has_reference(algo)), ("teacher", has_teacher(algo)))
    return ("policy", *(name for name, there in others if there))


def has_critic(algo: AlgoConfig) -> bool:
    """Whether advantages are made from values."""
    return isinstance(algo.advantage, GaeAdvantage) or "values" in _asked(algo)


def has_teacher(algo: AlgoConfig) -> bool:
    """Whether a teacher's log-probs are read."""
    return algo.distil_coef != 0.0 or "teacher_logprobs" in _asked(algo)


def has_reference(algo: AlgoConfig) -> bool:
    """Whether a frozen copy of the policy is kept."""
    return algo.kl.placement is not KLPlacement.none or "ref_logprobs" in _asked(algo)


def _asked(algo: AlgoConfig) -> list[str]:
    return algo.advantage.reads if isinstance(algo.advantage, CustomAdvantage) else []
