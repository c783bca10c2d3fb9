"""What the samples of a group get together, once all of them are there."""

from __future__ import annotations

from rlscale.data.sample import Group
from rlscale.envs.configured_group_rewards import GroupRewards
from rlscale.envs.environment import Action
from rlscale.envs.score import Failed, Score
from rlscale.rollout.episode import SampleFailed
from rlscale.rollout.failures import FailureRate

_TRIES = 4
"""Times that a group is judged before it is given up for another prompt."""


class GroupJudging:
    """Adds the group reward to what each sample got by itself; where it cannot be told, the group is judged anew.

    The samples stay as they are: that judging failed says nothing of them, and others in their place would have to be
    compared with all again.
    """

    def __init__(self, rewards: GroupRewards, failures: FailureRate) -> None:
        self._rewards, self._failures = rewards, failures

    async def judge(self, group: Group) -> None:
        """Judge a finished group. SampleFailed if that fails again and again; UserError if it does for too many."""
        actions = [Action.of(sample) for sample in group.samples]
        for _ in range(_TRIES):
            scores = await self._rewards.scores(group.prompt, actions)
            if scores is None:
                return
            failed = [one for one in scores if isinstance(one, Failed)]
            if not failed:
                self._failures.success()
                _add(group, [one for one in scores if not isinstance(one, Failed)])
                return
            self._failures.failure(failed[0].reason)
        raise SampleFailed(f"the group could not be judged in {_TRIES} tries: {failed[0].reason}")


def _add(group: Group, scores: list[Score]) -> None:
    """The scores added, as a part of their own; one that was added before, as when a run stopped behind it, is not
    added twice."""
    for sample, score in zip(group.samples, scores, strict=True):
        more = float(score) - sample.info.get("group_reward", 0.0)
        sample.info["group_reward"] = float(score)
        sample.reward += more
        if "task_reward" in sample.info:  # before the shaping by length
            sample.info["task_reward"] += more
        own = {f"group.{name}": value for name, value in score.parts.items()}
        sample.info["reward_parts"] = {**sample.info.get("reward_parts", {}), "group": float(score), **own}
