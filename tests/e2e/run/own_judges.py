"""Rewards that ask the models beside the policy."""

from __future__ import annotations

from typing import Any

from rlscale.envs.score import Score
from rlscale.envs.served_models import ServedModel


class SaidOf:
    """A score that is arbitrary, but the same for the same response: what `judge` says to it, as a number.

    A part of it is the weight version that `mirror` answers with.
    """

    def __init__(self, judge: str, mirror: str) -> None:
        self._judge, self._mirror = ServedModel(judge), ServedModel(mirror)

    async def __call__(self, response: str, label: Any, info: dict[str, Any], tokens: list[int]) -> Score:
        asked = [{"role": "user", "content": f"={response}"}]  # a router refuses a message without content
        said = await self._judge.chat(asked, max_tokens=4, temperature=0.0)
        body = {"input_ids": tokens, "sampling_params": {"max_new_tokens": 1, "sampling_seed": 0}}
        answer = await self._mirror.post("/generate", body)
        return Score(sum(map(ord, said)) % 11 / 10, {"version": float(answer["meta_info"]["weight_version"])})
