"""What the contract of a rollout service finds: nothing wrong in the shipped one, each fault of another by its name."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.service import RolloutService
from rlscale.run.contracts import check_service
from rlscale.trainer.hook_contract.findings import Status, failed


def broken(kind: type[RolloutService], seconds: float = 30.0) -> dict[str, str]:
    """What failed, and what was found there."""
    return {finding.check: finding.found for finding in failed(check_service(kind, kind, seconds))}


def test_the_shipped_service_keeps_the_contract() -> None:
    findings = check_service(RolloutService, RolloutService)
    assert [str(finding) for finding in findings if finding.status is not Status.passed] == []
    assert {"quiet", "pause", "tokens", "staleness", "untrained", "redirect"} <= {finding.check for finding in findings}


class NotAsync(RolloutService):
    def pause(self) -> None:  # type: ignore[override]  # what it breaks
        pass

    async def resume(self) -> None:  # type: ignore[override]  # what it breaks
        pass


def test_methods_that_a_run_cannot_call_end_the_test_before_anything_is_started() -> None:
    assert broken(NotAsync).keys() == {"pause", "resume"}
    assert len(broken(Buffer)) >= 8  # type: ignore[arg-type]  # what it breaks


class TooEager(RolloutService):
    async def start(self, url: str, api_key: str | None = None) -> None:
        await super().start(url, api_key)
        await self.resume(0)


class FewerGroups(RolloutService):
    async def next_batch(self) -> list[Group]:
        return (await super().next_batch())[1:]


class SameAgain(RolloutService):
    async def next_batch(self) -> list[Group]:
        self.first = getattr(self, "first", None) or await super().next_batch()
        return self.first


class Changed(RolloutService):
    """Changes the samples of a batch by `change`."""

    def change(self, group: Group) -> None: ...

    async def next_batch(self) -> list[Group]:
        groups = await super().next_batch()
        for group in groups:
            self.change(group)
        return groups


class Retokenised(Changed):
    def change(self, group: Group) -> None:
        for sample in group.samples:
            sample.tokens = np.where(sample.loss_mask, sample.tokens + 1, sample.tokens)


class Meddling(Changed):
    def change(self, group: Group) -> None:
        group.samples[0].reward = math.nan
        for sample in group.samples:
            sample.rollout_logprobs = sample.rollout_logprobs / 2
            sample.versions = sample.versions - 5
        group.samples.reverse()


class NeverPauses(RolloutService):
    async def pause(self) -> None:
        pass


class CannotBeSaved(RolloutService):
    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        return {**await super().state_dict(trained), "lock": asyncio.Lock()}


class Forgets(RolloutService):
    async def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class StaysThere(RolloutService):
    async def redirect(self, url: str) -> None:
        pass


class Negligent(RolloutService):
    async def evaluate(self, version: int, name: str = "") -> EvalResult:
        return replace(await super().evaluate(version, name), version=version + 1)

    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        return await super().state_dict()

    async def stats(self) -> Any:
        return {}


class Raises(RolloutService):
    async def next_batch(self) -> list[Group]:
        raise KeyError("groups")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (TooEager, {"quiet": " requests"}),
        (FewerGroups, {"batch": "groups of [2, 2] samples"}),
        (SameAgain, {"once": "["}),
        (Retokenised, {"tokens": "is none"}),
        (
            Meddling,
            {
                "reward": "nan",
                "log-probs": " for ",
                "versions": "[-5] for [0]",
                "staleness": "5 versions behind version 0",
                "order": "index 1 at place 0",
            },
        ),
        (NeverPauses, {"paused": " requests"}),
        (CannotBeSaved, {"call": "state['lock'] is a asyncio.locks.Lock"}),
        (Forgets, {"resume": " again"}),
        (StaysThere, {"redirect": "0 at the new one"}),
        (Negligent, {"evaluate": "version 1, 3 prompts", "untrained": " of [", "stats": "dict"}),
        (Raises, {"call": "KeyError: 'groups' at test_service_contract.py"}),
    ],
)
def test_a_broken_service_fails_by_the_name_of_what_it_breaks(
    kind: type[RolloutService], found: dict[str, str]
) -> None:
    said = broken(kind)
    assert all(text in said.get(check, "") for check, text in found.items()), said


class Stuck(RolloutService):
    async def next_batch(self) -> list[Group]:
        await asyncio.Event().wait()
        return []


def test_a_service_that_never_answers_is_a_finding() -> None:
    assert broken(Stuck, seconds=0.5)["call"] == "no answer within 0.5 s (next_batch)"
