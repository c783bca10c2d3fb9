"""Which models a configuration has besides its policy."""

from __future__ import annotations

from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BaselineAdvantage,
    CustomAdvantage,
    GaeAdvantage,
    KLPlacement,
    ReturnsAdvantage,
    SftLoss,
)

READ_KL = (ReturnsAdvantage, BaselineAdvantage, GaeAdvantage)
"""Advantages with a KL term in the reward."""


def named_models(algo: AlgoConfig) -> tuple[str, ...]:
    """The models of the trainer by their names, the policy first."""
    others = (("critic", has_critic(algo)), ("reference", has_reference(algo)), ("teacher", has_teacher(algo)))
    return ("policy", *(name for name, there in others if there))


def has_critic(algo: AlgoConfig) -> bool:
    """Whether advantages are made from values: the critic that gives them is trained too."""
    return not _supervised(algo) and (isinstance(algo.advantage, GaeAdvantage) or "values" in asked_columns(algo))


def has_teacher(algo: AlgoConfig) -> bool:
    """Whether a teacher's log-probs are read."""
    return not _supervised(algo) and (algo.distil_coef != 0.0 or "teacher_logprobs" in asked_columns(algo))


def has_reference(algo: AlgoConfig) -> bool:
    """Whether a frozen copy of the policy is kept, be it for the reward, for the loss or for one's own advantage."""
    read = kl_in_reward(algo) or kl_in_loss(algo)
    return not _supervised(algo) and (read or "ref_logprobs" in asked_columns(algo))


def kl_in_reward(algo: AlgoConfig) -> bool:
    """Whether the rewards contain a KL term: the reference's log-probs are read before the first step."""
    return algo.kl.placement is KLPlacement.reward and algo.kl.coef != 0.0


def kl_in_loss(algo: AlgoConfig) -> bool:
    """Whether the loss contains a KL term."""
    return algo.kl.placement is KLPlacement.loss and algo.kl.coef != 0.0


def asked_columns(algo: AlgoConfig) -> list[str]:
    """The columns that one's own advantage reads."""
    return algo.advantage.reads if isinstance(algo.advantage, CustomAdvantage) else []


def _supervised(algo: AlgoConfig) -> bool:
    return isinstance(algo.loss, SftLoss)
