"""The rewards of a run: the configured one, and those of sources that have one of their own."""

from __future__ import annotations

from collections.abc import Mapping

from rlscale.config.derived.eval_sets import eval_sets, own_judge
from rlscale.config.schema.data_config import DataConfig, MixtureData
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.prompt_queue import CheckLabel, CheckLabels
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.workers.reward_worker import RewardWorker


class RewardsBySource:
    """Scores a response with the reward of its prompt's source, or with the run's where that has none of its own."""

    def __init__(self, reward: RewardConfig | None, own: Mapping[str, RewardConfig]) -> None:
        """`reward`: None where no prompt needs it. UserError if one cannot be built."""
        self._common = None if reward is None else RewardWorker(reward)
        self._own = {name: RewardWorker(config) for name, config in own.items()}

    @property
    def check_label(self) -> CheckLabels:
        """What the rewards say of labels before they judge by them; by source where sources have rewards."""
        common = None if self._common is None else self._common.check_label
        if not self._own:
            return common
        own: dict[str, CheckLabel | None] = {name: worker.check_label for name, worker in self._own.items()}
        return {"": common, **own}

    async def score(self, action: Action, prompt: Prompt) -> float:
        """The reward of a response. RewardFailed if it raises, takes too long or gives no finite number."""
        worker = self._own.get(prompt.source, self._common)
        if worker is None:
            raise RuntimeError(f"no reward for prompts of the source {prompt.source!r}")
        return await worker.score(action, prompt)

    def close(self) -> None:
        """End the workers."""
        for worker in (self._common, *self._own.values()):
            if worker is not None:
                worker.close()


def own_rewards(data: DataConfig, evaluation: EvalConfig | None = None) -> dict[str, RewardConfig]:
    """The rewards of sources by their name, and those of evaluation sets that have one by what stands for a source."""
    sources = data.sources if isinstance(data, MixtureData) else {}
    sets = evaluation.sets if evaluation is not None and evaluation.enabled else {}
    own = {name: one.reward for name, one in sources.items() if one.reward is not None}
    return own | {own_judge(name): one.reward for name, one in sets.items() if one.reward is not None}


def common_reward(data: DataConfig, reward: RewardConfig, evaluation: EvalConfig | None = None) -> RewardConfig | None:
    """The run's reward; None where everything that is scored has its own."""
    own = own_rewards(data, evaluation)
    judges = [*data.sources] if isinstance(data, MixtureData) else [""]
    if evaluation is not None and evaluation.enabled:
        judges += [one.judge for one in eval_sets(evaluation).values()]
    return None if all(judge in own for judge in judges) else reward
