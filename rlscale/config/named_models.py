"""Which models a configuration has besides its policy."""

from __future__ import annotations

from rlscale.config.schema.algo import AlgoConfig, CustomAdvantage, GaeAdvantage, KLPlacement, SftLoss

COLUMNS = ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values")
"""Columns of a batch that models compute, in the order in which they are asked for."""


def named_models(algo: AlgoConfig) -> tuple[str, ...]:
    """The models of the trainer by their names, the policy first."""
    others = (("critic", has_critic(algo)), ("reference", has_reference(algo)), ("teacher", has_teacher(algo)))
    return ("policy", *(name for name, there in others if there))


def has_critic(algo: AlgoConfig) -> bool:
    """Whether advantages are made from values: the critic that gives them is trained too."""
    return not _supervised(algo) and (isinstance(algo.advantage, GaeAdvantage) or "values" in _asked(algo))


def has_teacher(algo: AlgoConfig) -> bool:
    """Whether a teacher's log-probs are read."""
    return not _supervised(algo) and (algo.distil_coef != 0.0 or "teacher_logprobs" in _asked(algo))


def has_reference(algo: AlgoConfig) -> bool:
    """Whether a frozen copy of the policy is kept, be it for the reward, for the loss or for one's own advantage."""
    read = algo.kl.placement is not KLPlacement.none and algo.kl.coef != 0.0
    return not _supervised(algo) and (read or "ref_logprobs" in _asked(algo))


def _supervised(algo: AlgoConfig) -> bool:
    return isinstance(algo.loss, SftLoss)


def _asked(algo: AlgoConfig) -> list[str]:
    return algo.advantage.reads if isinstance(algo.advantage, CustomAdvantage) else []
