"""From scores of samples to one advantage per trainable token. All of it is float64, on the whole iteration at once.

Tokens that are not trainable are never read and get exactly 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlscale.algo.trajectories import Trajectories
from rlscale.algo.turns import Turns

VARIANCE_EPS = 1e-8


def broadcast(
    scores: NDArray[np.float64],
    sample: NDArray[np.int64],
    lengths: NDArray[np.int64],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Give every trainable token its sample's score: A_t = m_t * score_i.

    Shapes: scores [n], sample [rows] (index into scores of each segment), lengths [rows] (tokens of each segment),
    mask [T] with T = sum of lengths -> [T] float64. Source: GRPO, DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    """
    per_token = np.repeat(np.asarray(scores, dtype=np.float64)[sample], lengths)
    if per_token.shape != mask.shape:
        raise ValueError(f"lengths add up to {per_token.shape[0]} tokens but the mask has {mask.shape[0]}")
    return np.where(mask, per_token, 0.0)


def baseline(
    scores: NDArray[np.float64], kl: NDArray[np.float64] | None, kl_coef: float, mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Every trainable token's score, less its own KL penalty: A_t = m_t * (score_t - kl_coef * KL_t).

    Shapes: scores [T] (those of samples by `broadcast`), kl [T] or None for no penalty, mask [T] -> [T]. The baseline
    is in the score (group mean). Source: REINFORCE++-baseline (arXiv 2501.03262).
    """
    advantages = np.where(mask, scores, 0.0)
    if kl is not None:
        advantages[mask] -= kl_coef * np.asarray(kl, dtype=np.float64)[mask]
    return advantages


def reward_tokens(
    scores: NDArray[np.float64],
    kl: NDArray[np.float64] | None,
    kl_coef: float,
    trajectories: Trajectories,
    turns: Turns | None = None,
) -> NDArray[np.float64]:
    """The reward of each action: rho_t = -kl_coef * KL_t, plus the sample's score at its last trainable token.

    With `turns` each turn's own reward is at that turn's last token instead; they were made with the scores as
    rewards, so that both add up to the same. Shapes: scores [n] (by sample number), kl [T] or None for no penalty ->
    [T]. The score of a sample that has no trainable token goes nowhere. Source: PPO for language models (arXiv
    2203.02155), eq. 2.
    """
    rho = np.zeros(trajectories.size, dtype=np.float64)
    if kl is not None:
        rho = trajectories.unpack(-kl_coef * trajectories.pack(kl))
    if turns is not None:
        return rho + trajectories.unpack(turns.rewards)
    rho[trajectories.last] += np.asarray(scores, dtype=np.float64)[trajectories.samples]
    return rho


def returns(
    rho: NDArray[np.float64], trajectories: Trajectories, *, gamma: float, turns: Turns | None = None
) -> NDArray[np.float64]:
    """Discounted sum of the rewards from a token on: A_t = sum over s >= t of gamma^(s - t) rho_s.

    With `turns` each term is also multiplied by the turns' discount once for every turn that ends in between. Shapes:
    rho [T] -> [T]; s and t count trainable tokens of the sample only. Source: REINFORCE++ (arXiv 2501.03262).
    """
    discount = gamma if turns is None else turns.discounts(gamma)
    return trajectories.unpack(trajectories.discounted_sums(trajectories.pack(rho), discount))


def gae(
    rho: NDArray[np.float64],
    values: NDArray[np.floating],
    trajectories: Trajectories,
    *,
    gamma: float,
    lam: float,
    turns: Turns | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Generalised advantage estimation over trainable tokens, and the critic's targets.

        delta_t = rho_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1},   returns_t = A_t + V_t

    With `turns` the last token of a turn has gamma times the turns' discount in place of gamma. Shapes: rho, values
    [T] -> (advantages [T], returns [T]), not whitened. t + 1 is the sample's next trainable token; V after its last one
    is 0, also when the sample was cut off by a limit. Sources: GAE (arXiv 1506.02438), eq. 16; a discount for tokens
    and one for turns: VAGEN (arXiv 2510.16907), Bi-Level GAE, of which this is the one-pass form with one lambda.
    """
    discount = gamma if turns is None else turns.discounts(gamma)
    value = trajectories.pack(values)
    delta = trajectories.pack(rho) + discount * trajectories.following(value) - value
    advantages = trajectories.discounted_sums(delta, discount * lam)
    return trajectories.unpack(advantages), trajectories.unpack(advantages + value)


def distil(
    advantages: NDArray[np.float64],
    old_logprobs: NDArray[np.floating],
    teacher_logprobs: NDArray[np.floating],
    mask: NDArray[np.bool_],
    coef: float,
) -> NDArray[np.float64]:
    """On-policy distillation on top of other advantages (or of zeros): A_t - coef * (old_t - teacher_t).

    Shapes: all [T] -> [T], not whitened. With coef 1 the policy gradient of the added term is in expectation minus the
    gradient of KL(policy || teacher) of each next token. Source: on-policy distillation (arXiv 2306.13649), reverse KL.
    """
    distilled = np.zeros(mask.shape[0], dtype=np.float64)
    gap = np.asarray(old_logprobs, dtype=np.float64)[mask] - np.asarray(teacher_logprobs, dtype=np.float64)[mask]
    distilled[mask] = np.asarray(advantages, dtype=np.float64)[mask] - coef * gap
    return distilled


def whiten(advantages: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Zero mean and unit variance over the trainable tokens of the whole iteration: (A - mu) / sqrt(var + 1e-8).

    Shapes: advantages [T], mask [T] -> [T]. The variance is Bessel-corrected; of a single token it counts as 0, so that
    token gets 0.
    """
    whitened = np.zeros(mask.shape[0], dtype=np.float64)
    selected = np.asarray(advantages, dtype=np.float64)[mask]
    if selected.size:
        centred = selected - selected.mean()
        variance = np.square(centred).sum() / max(selected.size - 1, 1)
        whitened[mask] = centred / np.sqrt(variance + VARIANCE_EPS)
    return whitened
