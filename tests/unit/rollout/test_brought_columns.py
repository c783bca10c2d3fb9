"""A batch field that an environment brings: samples have it, and a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Scope
from rlscale.data.sample import Group, Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.rollout.brought_columns import brought_columns

FIELDS.register(Field("test_effort", np.float32, Scope.sample))
FIELDS.register(Field("test_by_token", np.float32, Scope.token))
FIELDS.register(Field("test_count", np.int64, Scope.sample))


class Weighing(Environment):
    """Two turns, each of which says how much the sample is worth."""

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        self.turns = 0
        return Start()

    async def step(self, action: Action) -> Step:
        self.turns += 1
        again = [{"role": "user", "content": "7"}]
        return Step(messages=again, reward=1.0, done=self.turns == 2, columns={"test_effort": self.turns / 2})


def test_what_the_last_turn_says_is_a_column_of_the_sample_and_of_the_batch(run: Callable[..., Any]) -> None:
    async def scenario(engine: Any, service: Any) -> list[Group]:
        await service.resume(0)
        groups: list[Group] = await service.next_batch()
        return groups

    node = {"_target_": f"{__name__}.Weighing"}
    groups = run(scenario, env=node, max_response_tokens=40, max_turn_tokens=6)
    turns = [len(sample.info.get("turn_rewards", [1.0])) for group in groups for sample in group.samples]
    assert set(turns) == {2}
    column = Batch.from_groups(groups).columns["test_effort"]
    assert (column.dtype, column.tolist()) == (np.float32, [1.0] * len(turns))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"test_effrt": 1.0}, "a column 'test_effrt', which is not registered in the rollout's process"),
        ({"reward": 1.0}, "a column 'reward', which is not a field of your own"),
        ({"test_by_token": 1.0}, "'test_by_token', which is not a field of your own with one number for each sample"),
        ({"test_effort": "much"}, "that is 'much' instead of a number"),
        ({"test_count": 0.5}, "that is 0.5 instead of a number"),
        ({"test_effort": [1.0, 2.0]}, "instead of one number"),
    ],
)
def test_what_is_no_number_of_a_field_of_ones_own_ends_the_run_with_a_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match="the environment's step has a column") as caught:
        brought_columns(given)
    assert line in str(caught.value)
    assert brought_columns({"test_effort": 1, "test_count": np.int32(3)}) == {"test_effort": 1.0, "test_count": 3}
