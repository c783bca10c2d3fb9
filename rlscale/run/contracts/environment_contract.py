"""The contract test of an environment of one's own: a few scripted episodes, one finding per check."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from rlscale.config.errors import UserError
from rlscale.data.prompts.messages import read_messages
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.envs.score import score_of
from rlscale.rollout.brought_columns import brought_columns
from rlscale.trainer.hook_contract.findings import Finding, Report, Status, reported

TURNS = 32
"""Turns after which an episode is given up."""
RESPONSES = ("42", "", "no number", "größer ∑ 數 \U0001f600", '{"name": "add", "arguments": {"a": 6', "7 " * 2000)
"""What the scripted policy says, one response after another, beginning with each of them once."""
_HELD_S = 0.1
_RAISED = "no exception, whatever the policy says"


class ExactScorer:
    """The reward that a checked environment is given: 1 for the label, 0 for anything else."""

    async def score(self, action: Action, prompt: Prompt) -> float:
        """Whether the response is the label."""
        return float(action.text.strip() == str(prompt.label))


def check_environment(make: Callable[[], Environment], row: Mapping[str, Any] | None = None) -> list[Finding]:
    """Play episodes that begin with a row of the data: `prompt`, `label`, and other keys as `info`."""
    prompt = prompt_of_row(row or {})
    with reported() as report:
        asyncio.run(_check(make, prompt, report))
    return report.findings


async def _check(make: Callable[[], Environment], prompt: Prompt, report: Report) -> None:
    unused = make()
    await _called(report, "reset", unused.reset(copy.deepcopy(prompt), 1))
    await _called(report, "close", unused.close())
    for first in range(len(RESPONSES)):
        given = copy.deepcopy(prompt)
        async with held_loop(report):
            alone = await _episode(make(), given, first, report)
        same = (given.label, given.info, list(given.messages)) == (prompt.label, prompt.info, list(prompt.messages))
        report.add(
            "arguments", "the prompt stays as it was", same, "it did" if same else "label, info or messages differ"
        )
        pair = await asyncio.gather(
            _episode(make(), copy.deepcopy(prompt), first, report),
            _episode(make(), copy.deepcopy(prompt), first + 1, report),
        )
        again = pair[0]
        text = "they are" if alone == again else f"{_differs(alone, again)}, beginning with {RESPONSES[first][:20]!r}"
        expected = "the same steps for the same seed, also beside another episode"
        report.add("deterministic", expected, alone == again, text, otherwise=Status.warned)


async def _episode(environment: Environment, prompt: Prompt, first: int, report: Report) -> list[Any]:
    """What came of each turn: message or reward, as far as it went."""
    steps: list[Any] = []
    start = await _called(report, "reset", environment.reset(prompt, 7))
    _check_type(report, "reset", start, Start)
    turns = min(TURNS, start.max_turns or TURNS)
    for turn in range(turns):
        said = RESPONSES[(first + turn) % len(RESPONSES)]
        action = Action(said, f"{said}<|im_end|>", [ord(c) % 1000 for c in said] + [0])
        try:
            step = await environment.step(action)
        except (Exception, SystemExit) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            report.add(
                "step", _RAISED, False, f"{text} for {said[:20]!r}; it drops the sample", otherwise=Status.warned
            )
            break
        report.add("step", _RAISED, True, "it returns")
        _check_type(report, "step", step, Step)
        _check_step(report, step)
        steps.append((step.reward, step.done, [dict(message) for message in step.messages], dict(step.info)))
        if step.done:
            break
    else:
        ended = start.max_turns is not None
        text = f"it goes on after {turns} turns; the budget of tokens will cut it off"
        report.add("ends", "an episode ends", ended, "at max_turns" if ended else text, otherwise=Status.warned)
    if steps and steps[-1][1]:
        report.add("ends", "an episode ends", True, "it does")
    await _called(report, "close", environment.close())
    return steps


def _check_type(report: Report, what: str, given: Any, kind: type) -> None:
    right = isinstance(given, kind)
    text = "it is" if right else f"a {type(given).__name__}"
    report.add(f"{what} gives", f"a rlscale.envs.environment.{kind.__name__}", right, text)
    report.stop_if_failed(f"{what} gives")


def _check_step(report: Report, step: Step) -> None:
    """Reward and messages of a step."""
    try:
        score_of(step.reward)
        report.add("finite", "a finite number as reward", True, "it is")
    except ValueError as error:
        report.add("finite", "a finite number as reward", False, str(error))
    if step.columns:
        _check_columns(report, step)
    if step.done:
        return
    expected = "messages with role and text, unless it is done"
    try:
        if not step.messages:
            raise ValueError("there are none")
        read_messages(list(step.messages))
        roles = {message["role"] for message in step.messages}
        if roles & {"assistant", "system"}:
            raise ValueError(f"roles {', '.join(sorted(roles))}; what the policy is shown is by the user or a tool")
        report.add("messages", expected, True, "they are")
    except ValueError as error:
        report.add("messages", expected, False, str(error))


def _check_columns(report: Report, step: Step) -> None:
    """What a step brings to the batch."""
    expected = "numbers of fields of your own, which a module that is imported registers"
    try:
        report.add("columns", expected, True, ", ".join(brought_columns(step.columns)))
    except UserError as error:
        report.add("columns", expected, False, str(error))


async def _called(report: Report, method: str, call: Any) -> Any:
    try:
        given = await call
    except (Exception, SystemExit) as error:
        report.add(method, "no exception", False, " ".join(f"{type(error).__name__}: {error}".split()))
        report.stop_if_failed(method)
        raise
    report.add(method, "no exception", True, "it returns")
    return given


@asynccontextmanager
async def held_loop(report: Report) -> AsyncIterator[None]:
    """How long the event loop was held at a time meanwhile."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        task.cancel()
    text = f"{longest:.3f} s at most"
    if longest > _HELD_S:
        text += "; put long computations into asyncio.to_thread or a process"
    report.add("event loop", f"held for at most {_HELD_S} s", longest <= _HELD_S, text, otherwise=Status.warned)


def _differs(one: Sequence[Any], other: Sequence[Any]) -> str:
    if len(one) != len(other):
        return f"{len(one)} steps, then {len(other)}"
    turn = next(number for number, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return f"turn {turn} differs"


def prompt_of_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row of the data: `prompt`, `label`, and other keys as `info`."""
    text = row.get("prompt", "What is 6 times 7?")
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else read_messages(text)
    info = {key: value for key, value in row.items() if key not in ("prompt", "label")} or {"index": 0}
    return Prompt(0, "0", np.arange(1, 8, dtype=np.int32), row.get("label", "42"), info, str(text), messages)
