"""Old log-probs, and the other columns that models compute before an iteration's first step: who asks for them."""

from __future__ import annotations

from rlscale.config.corrections import corrected_ahead, rejects
from rlscale.config.named_models import asked_columns, has_critic, has_teacher, kl_in_reward
from rlscale.config.schema.algo_config import AlgoConfig, OldLogprobs, SftLoss

COLUMNS = ("old_logprobs", "ref_logprobs", "teacher_logprobs", "values")
"""Columns of a batch that models compute, in the order in which they are asked for."""


def columns_before(algo: AlgoConfig) -> tuple[str, ...]:
    """The columns that the driver needs for advantages and corrections, a subset of `COLUMNS` in its order.

    What the loss alone reads (old log-probs for several steps, the reference for a KL term in the loss) is not among
    them: each rank computes that for itself. With `correction.bypass` the old log-probs are the engine's, which
    are copied: no pass is made for them. A coefficient of 0 needs nothing.
    """
    if isinstance(algo.loss, SftLoss):
        return ()
    penalty, critic, asked = kl_in_reward(algo), has_critic(algo), asked_columns(algo)
    corrects = corrected_ahead(algo) or rejects(algo)
    reads_old = penalty or critic or corrects or algo.distil_coef != 0.0 or "old_logprobs" in asked
    needed = {
        "old_logprobs": reads_old and not algo.correction.bypass,
        "ref_logprobs": penalty or "ref_logprobs" in asked,
        "teacher_logprobs": has_teacher(algo),
        "values": critic,
    }
    return tuple(name for name in COLUMNS if needed[name])


def ranks_need_old(algo: AlgoConfig) -> bool:
    """Whether the ranks compute `old_logprobs` before the first step of an iteration if the batch brings none."""
    if isinstance(algo.loss, SftLoss) or algo.correction.bypass:
        return False
    several = algo.steps_per_iteration * algo.epochs_per_iteration > 1
    return several or algo.old_logprobs is not OldLogprobs.auto


def makes_old_pass(algo: AlgoConfig) -> bool:
    """Whether every iteration makes a pass for the old log-probs.

    The first iteration of a run makes one in any case, to be measured.
    """
    return ranks_need_old(algo) or "old_logprobs" in columns_before(algo)


def old_model(algo: AlgoConfig) -> str:
    """The model that `old_logprobs` are by: `policy` as it is, or `behaviour`, the policy as it was for each token."""
    return "behaviour" if algo.old_logprobs is OldLogprobs.behaviour else "policy"


def kept_versions(algo: AlgoConfig, max_staleness: int) -> int:
    """Versions of the policy's weights that are kept besides the present one."""
    return max_staleness if old_model(algo) == "behaviour" and not isinstance(algo.loss, SftLoss) else 0
