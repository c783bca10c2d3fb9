"""The contract of a group reward: a score for each response, which follows the response and not its place."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.group_reward import GroupReward
from rlscale.envs.score import Failed, score_of
from rlscale.run.contracts.environment_contract import held_loop, prompt_of_row
from rlscale.trainer.hook_contract.findings import Finding, Report, Status, reported

RESPONSES = ("42", "", "The answer is \\boxed{42}.", "no number", "größer ∑ 數 \U0001f600", "7 " * 2000)
_SIZES = (1, 2, 3, len(RESPONSES))


def check_group_reward(reward: GroupReward, row: Mapping[str, Any] | None = None) -> list[Finding]:
    """Judge groups of one to six responses to a row of the data: `prompt`, `label`, and other keys as `info`."""
    prompt = prompt_of_row(row or {})
    with reported() as report:
        asyncio.run(_check(reward, prompt, report))
    return report.findings


async def _check(reward: GroupReward, prompt: Prompt, report: Report) -> None:
    judged = 0
    for size in _SIZES:
        where = f"a group of {size}"
        actions = [Action(said, f"{said}<|im_end|>", [ord(c) % 1000 for c in said] + [0]) for said in RESPONSES[:size]]
        given = copy.deepcopy((prompt, actions))
        async with held_loop(report):
            scores = await _scores(reward, *given, report, where)
        same = repr(given) == repr((prompt, actions))
        text = "they did" if same else f"they were changed ({where})"
        report.add("arguments", "prompt and responses stay as they were", same, text)
        judged += sum(score is not None for score in scores)
        again = await _scores(reward, prompt, actions, report, where)
        text = "they are" if again == scores else f"{scores}, then {again} ({where})"
        report.add("deterministic", "the same scores again", again == scores, text, otherwise=Status.warned)
        if size > 1:
            turned = (await _scores(reward, prompt, actions[::-1], report, where))[::-1]
            text = "it does" if turned == scores else f"{scores}, in another order {turned} ({where})"
            expected = "a score follows the response, not its place"
            report.add("order", expected, turned == scores, text, otherwise=Status.warned)
    text = f"{judged} of {sum(_SIZES)} responses"
    report.add("judges", "responses are judged", judged > 0, text, otherwise=Status.warned)


async def _scores(
    reward: GroupReward, prompt: Prompt, actions: Sequence[Action], report: Report, where: str
) -> list[float | None]:
    """The scores of one call, None where it could not tell."""
    try:
        given: Any = list(await reward(prompt, actions))
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error} ({where})".split())
        report.add("call", "no exception (it gives the group up)", False, text, otherwise=Status.warned)
        return [None] * len(actions)
    report.add("call", "no exception (it gives the group up)", True, "it returns")
    fits = len(given) == len(actions)
    report.add("length", "a score for each response", fits, "it is" if fits else f"{len(given)} for {where}")
    report.stop_if_failed("length")
    found: list[float | None] = []
    for one in given:
        try:
            found.append(None if isinstance(one, Failed) else score_of(one))
            report.add("finite", "finite numbers, or Failed", True, "they are")
        except ValueError as error:
            found.append(None)
            report.add("finite", "finite numbers, or Failed", False, f"{error} ({where})")
    return found
