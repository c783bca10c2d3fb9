"""Turns of a sample that have a reward each: what a turn is worth, with a discount from one turn to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlscale.algo.trajectories import Trajectories


@dataclass(frozen=True)
class Turns:
    """Where the turns of each sample end, and the reward of each. N trainable tokens, ordered as in `Trajectories`."""

    trajectories: Trajectories
    discount: float
    """What a reward loses from one turn to the turn before."""
    ends: NDArray[np.bool_]
    """[N] packed: whether the token is the last of its turn."""
    rewards: NDArray[np.float64]
    """[N] packed: the reward of the turn at its last token, 0 elsewhere."""

    @classmethod
    def of(
        cls,
        turn_reward: NDArray[np.floating],
        rewards: NDArray[np.float64],
        discount: float,
        trajectories: Trajectories,
    ) -> Turns:
        """From the reward of every turn at its last token, NaN elsewhere, and the rewards of samples.

        Shapes: turn_reward [T], rewards [n] by sample number.
        What the turns' rewards lack to the sample's, a penalty for its length for instance, goes to its last turn.
        ValueError where a sample's last trainable token ends no turn.
        """
        packed = trajectories.pack(turn_reward)
        ends = ~np.isnan(packed)
        last = trajectories.samples.shape[0]
        if not ends[:last].all():
            raise ValueError("turn_reward: the last trainable token of a sample must end a turn, and have its reward")
        own = np.where(ends, packed, 0.0)
        given = np.bincount(trajectories.sample_of_tokens(), own, rewards.shape[0])
        own[:last] += (rewards - given)[trajectories.samples]
        return cls(trajectories, discount, ends, own)

    def discounts(self, gamma: float) -> NDArray[np.float64]:
        """What each token's next one counts, [N] packed: gamma, and at the end of a turn gamma * discount."""
        return gamma * np.where(self.ends, self.discount, 1.0)

    def returns(self) -> NDArray[np.float64]:
        """G_k = sum over j >= k of discount^(j - k) r_j on every token of turn k, [N] packed.

        Source: Kevin, multi-turn RL for CUDA kernels (arXiv 2507.11948), section 3: the discounted sum of the scores of
        a turn and of those after it.
        """
        return self.trajectories.discounted_sums(self.rewards, self.discounts(1.0))

    def spread(
        self, score: Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]], group: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """A score of each turn, on all of its tokens: [T], exactly 0 where a token is not trainable.

        `score` is given the returns of all turns [K] and the group of each [K], so that a turn is compared with every
        turn of its group's samples (Kevin, as above); `group` [n] is by sample number.
        """
        at = self.ends.nonzero()[0]
        scores = np.zeros(self.ends.shape[0])
        scores[at] = score(self.returns()[at], group[self.trajectories.sample_of_tokens()[at]])
        # From its end a turn's score is carried to its beginning: what follows counts only inside of a turn.
        carried = self.trajectories.discounted_sums(scores, np.where(self.ends, 0.0, 1.0))
        return self.trajectories.unpack(carried)
