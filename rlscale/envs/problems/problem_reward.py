"""Judging answers to problems that a package made, by that package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.protocol_methods import build_as
from rlscale.envs.problems.problem_maker import ProblemMaker, digest_of
from rlscale.envs.score import Failed


class ProblemReward:
    """The maker's score of the response, for prompts of rlscale.envs.problems.problem_source.ProblemSource.

    The problem is made once more from its kind, level and seed, since what a package needs to judge is not always plain
    data. `maker` must be that of the source. Where another problem comes of them than the one that was asked, as when a
    time limit within the package ended one try and not the other, the reward has failed, and the answer is not wrong.
    """

    def __init__(self, maker: Mapping[str, Any] | None = None) -> None:
        """UserError without a maker, or where its package is not installed."""
        if not maker:
            raise UserError(
                "reward.function.maker is missing: by default it is that of data=reasoning_gym, data=rlve_gym or "
                "another source of problems, and has to be given where data is none of them"
            )
        self._maker: ProblemMaker = build_as(maker, "reward.function.maker", ProblemMaker)

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float | Failed:
        """From 0 to 1. ValueError for a prompt of another source."""
        if "problem" not in info or "seed" not in info:
            raise ValueError("the prompt is not a problem of rlscale.envs.problems.problem_source.ProblemSource")
        which = info["problem"], info.get("difficulty"), info["seed"]
        if "digest" in info and digest_of(self._maker.make(*which)) != info["digest"]:
            return Failed(f"{which[0]}: its seed gave another problem here than the one that was asked")
        return self._maker.score(*which, response)
