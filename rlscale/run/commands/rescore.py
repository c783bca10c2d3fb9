"""`python -m rlscale rescore`: a changed reward over the stored rollouts of a run, without generating anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.errors import UserError
from rlscale.config.schema import SINGLE_TURN, Config
from rlscale.config.schema.component import TARGET
from rlscale.config.shown import say
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.stored_rollouts import StoredRollouts
from rlscale.data.target import current_folder_importable
from rlscale.envs.configured_group_rewards import GroupRewards
from rlscale.envs.environment import Action, Scorer
from rlscale.envs.reward import RewardFailed
from rlscale.envs.rewards_by_source import RewardsBySource, common_reward, own_rewards
from rlscale.envs.score import Failed
from rlscale.observe import jsonl
from rlscale.run.commands.recipe_of_run import compose_of_run, tell_code, trusted
from rlscale.run.commands.recomposed import taken_apart
from rlscale.run.disk.run_folder import read_mark

USAGE = (
    "usage: python -m rlscale rescore run.output=FOLDER [reward=OPTION] [reward.KEY=VALUE ...] [to=FILE.jsonl]\n"
    "                                [--trust-run]\n"
    "  run.output  folder of a run that stored rollouts (rollout.store=all, or sampled)\n"
    "  reward      the reward to try, and its keys, as in a run; by default the run's own\n"
    "  to          file for every sample with both rewards\n"
    "  --trust-run run what the run's own recipe names: code, programs without a sandbox\n"
    "Prints what the reward would have changed. Nothing is generated, nothing of the run is changed."
)
_OWN = ("run.output", "to")
_OF_REWARD = re.compile(r"[+~]*(reward(@data\.sources\.[^.]+\.reward)?=|(data\.sources\.[^.]+\.)?reward\.)")
"""Overrides of rewards: the run's, or that of a source."""
_SHOWN = 5
"""Changes that are shown."""


@dataclass
class Comparison:
    """Rewards of the same samples, before and after."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    failed: int = 0
    """Samples that the reward could not judge; in no other number."""
    groups: int = 0
    signal: tuple[int, int] = (0, 0)
    """Groups whose rewards are not all equal, before and after."""

    def add(self, group: Group, after: Sequence[float | None]) -> None:
        """A group, and what its samples get now; None where the reward failed."""
        pairs = [(old, new) for old, new in zip(map(task_reward, group.samples), after, strict=True) if new is not None]
        self.failed += len(after) - len(pairs)
        self.before += [old for old, _ in pairs]
        self.after += [new for _, new in pairs]
        if pairs:
            self.groups += 1
            varied = [len(set(rewards)) > 1 for rewards in zip(*pairs, strict=True)]
            self.signal = (self.signal[0] + varied[0], self.signal[1] + varied[1])

    def __str__(self) -> str:
        before, after = np.array(self.before), np.array(self.after)
        if not before.size:
            return f"the reward failed for all {self.failed} samples"
        up, down = int((after > before).sum()), int((after < before).sum())
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{before.size} samples, reward {before.mean():.4f} -> {after.mean():.4f}, {up} higher, {down} lower, "
            f"{before.size - up - down} the same{failed}; groups with a signal {self.signal[0]} -> {self.signal[1]} "
            f"of {self.groups}"
        )


def rescore(arguments: Sequence[str]) -> int:
    """Score stored rollouts anew and print what changes: a line for each iteration, the total, the largest changes."""
    if help_is_shown(arguments, USAGE):
        return 0
    trust, words = trusted(arguments)
    own, overrides = taken_apart("rescore", words, _OWN)
    if "run.output" not in own:
        raise UserError("rescore needs run.output=FOLDER, the folder of a run")
    run = Path(own["run.output"]).expanduser().resolve()
    if read_mark(run) is None:
        raise UserError(f"run.output={run} does not contain a run")
    if others := [word for word in overrides if not _OF_REWARD.match(word)]:
        raise UserError(f"{others[0]}: rescore changes the reward only (reward=..., reward.<key>=...)")
    config = compose_of_run(run, overrides, ("reward",), _is_run, trust=trust)
    if config.env.get(TARGET) != SINGLE_TURN:
        raise UserError(f"env._target_={config.env.get(TARGET)} gave the rewards of this run, not the reward alone")
    stored = StoredRollouts(run, "run.output")
    tell_code(config, _is_run)
    with current_folder_importable():
        records = asyncio.run(_rescored(config, stored))
    if "to" in own:
        _write(Path(own["to"]), records)
    return 0


def _is_run(key: str) -> bool:
    """Of a run's configuration, its rewards alone."""
    return key.startswith("reward.") or ".reward." in key


async def _rescored(config: Config, stored: StoredRollouts) -> list[dict[str, object]]:
    """Print the comparison; a record of every sample."""
    total = Comparison()
    records: list[dict[str, object]] = []
    own = own_rewards(config.data)
    worker, together = RewardsBySource(common_reward(config.data, config.reward), own), GroupRewards(config.reward, own)
    try:
        for iteration in stored.iterations:
            groups = await asyncio.to_thread(stored.groups, iteration)
            one = Comparison()
            for group, after in zip(groups, await _scores(worker, together, groups), strict=True):
                for comparison in (one, total):
                    comparison.add(group, after)
                records += _records(iteration, group, after)
            say(f"iteration {iteration}: {one}")
    finally:
        worker.close()
    say(f"all: {total}")
    for line in _largest(records):
        say(line)
    return records


async def _scores(scorer: Scorer, together: GroupRewards, groups: Sequence[Group]) -> list[list[float | None]]:
    """What every sample of every group gets, by itself and with the others."""

    async def one(prompt: Prompt, sample: Sample) -> float | None:
        try:
            return await scorer.score(Action.of(sample), prompt)
        except RewardFailed:
            return None

    async def of(group: Group) -> list[float | None]:
        alone = await asyncio.gather(*(one(group.prompt, sample) for sample in group.samples))
        more = await together.scores(group.prompt, [Action.of(sample) for sample in group.samples])
        if more is None:
            return alone
        pairs = zip(alone, more, strict=True)
        return [None if a is None or isinstance(b, Failed) else a + b for a, b in pairs]

    return list(await asyncio.gather(*map(of, groups)))


def task_reward(sample: Sample) -> float:
    """What the reward gave a sample, before anything was added for its length."""
    return float(sample.info.get("task_reward", sample.reward))


def _records(iteration: int, group: Group, after: Sequence[float | None]) -> Iterator[dict[str, object]]:
    for sample, new in zip(group.samples, after, strict=True):
        yield {
            "iteration": iteration,
            "id": group.prompt.id,
            "sample": sample.index,
            "label": group.prompt.label,
            "response": sample.text,
            "before": task_reward(sample),
            "after": new,
        }


def _largest(records: Sequence[dict[str, object]]) -> Iterator[str]:
    """A line for each of the largest changes."""

    def change(record: dict[str, object]) -> float:
        before, after = record["before"], record["after"]
        return abs(after - before) if isinstance(before, float) and isinstance(after, float) else 0.0

    for record in sorted(records, key=change, reverse=True)[:_SHOWN]:
        if change(record):
            yield (
                f"  prompt {record['id']}, label {_short(record['label'])}, response {_short(record['response'])}: "
                f"{record['before']:g} -> {record['after']:g}"
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"


def _write(file: Path, records: Sequence[dict[str, object]]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        jsonl.rewrite(file, records)
    except OSError as error:
        raise UserError(f"to={file} cannot be written ({error.strerror}); choose another file") from error
