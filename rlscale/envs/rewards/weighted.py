"""Several rewards in one: their weighted sum, with each part as a metric."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.envs.reward import build_reward, extras_of, label_check
from rlscale.envs.score import Failed, Score, full_score

_KEYS = {"weight", "function"}


class WeightedSum:
    """The sum of rewards, each times its weight; the unweighted ones are the score's parts.

    `parts`: by name `{weight: 1.0, function: {_target_: ..., argument: ...}}`. Each part gets the label and what
    else it asks for. If one has failed, so has the sum.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        """UserError naming the part that cannot be built."""
        if not parts:
            raise UserError("reward.function.parts is empty; give it rewards by name: {weight: 1.0, function: {...}}")
        self._parts = {}
        for name, part in parts.items():
            where = f"reward.function.parts.{name}"
            if not isinstance(part, Mapping) or set(part) - _KEYS or "function" not in part:
                raise UserError(f"{where}: must be {{weight: 1.0, function: {{_target_: ...}}}}")
            weight = part.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise UserError(f"{where}.weight={weight}: must be a number")
            try:
                reward = build_reward(RewardConfig(function=dict(part["function"])))
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            self._parts[name] = (float(weight), reward, extras_of(reward))

    def __call__(self, response: str, label: Any, info: dict[str, Any], **extras: Any) -> Any:
        """A Score, Failed, or what gives it when it is awaited, where a part is `async def`."""
        calls = {
            name: reward(response, label, info, **{extra: extras[extra] for extra in wanted if extra in extras})
            for name, (_, reward, wanted) in self._parts.items()
        }
        if any(inspect.isawaitable(call) for call in calls.values()):
            return self._awaited(calls)
        return self._sum(calls)

    def check_label(self, label: Any) -> None:
        """ValueError with the reason of the first part that could not judge by the label."""
        for name, (_, reward, _) in self._parts.items():
            if (check := label_check(reward)) is not None:
                try:
                    check(label)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None

    async def _awaited(self, calls: Mapping[str, Any]) -> Score | Failed:
        async def one(call: Any) -> Any:
            return await call if inspect.isawaitable(call) else call

        return self._sum(dict(zip(calls, await asyncio.gather(*map(one, calls.values())), strict=True)))

    def _sum(self, values: Mapping[str, Any]) -> Score | Failed:
        found: dict[str, Score] = {}
        for name, value in values.items():
            if isinstance(value, Failed):
                return Failed(f"{name}: {value.reason}")
            found[name] = full_score(value)
        total = sum(self._parts[name][0] * score for name, score in found.items())
        inner = {f"{name}.{part}": value for name, score in found.items() for part, value in score.parts.items()}
        crash = next((f"{name}: {score.crash}" for name, score in found.items() if score.crash), "")
        return Score(total, {name: float(score) for name, score in found.items()} | inner, crash)
