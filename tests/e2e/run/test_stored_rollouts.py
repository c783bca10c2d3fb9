"""A run stores its rollouts, another trains on them without engines and ends with the same weights, bit by bit; a third
generates without a trainer, and what it stores can be trained on, too. One more does it all in a process with a
debugger, and comes to the same.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlscale.data.stored.rollout_file import read_groups
from rlscale.data.stored.stored_rollouts import StoredRollouts
from tests.e2e.run.command import SHORT, command, run

pytestmark = pytest.mark.timeout(500)  # six commands, three of which import everything themselves

QUIET = (*SHORT, "eval.enabled=false", "checkpoint.every=0")


REWARD = """
from rlscale.algo import losses
from rlscale.envs.rewards.exact import ExactAnswer

calls = []


async def watched(response, label, info):
    calls.append(label)
    if len(calls) == 1:
        breakpoint()
    return ExactAnswer()(response, label, info)
"""
WATCHED = ("run.in_process=true", "reward=custom", "reward.function._target_=watched.watched")
TYPED = (
    "p label.lstrip('-').isdigit()",
    "tbreak losses.clip",
    "c",
    "p ((logprobs - old_logprobs).exp().mean().item(), eps_low * 0)",
    "c",
)
"""Commands of the debugger: in a reward, then in the loss."""


def debugged(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run that finds somebody at its terminal."""
    (folder / "watched.py").write_text(REWARD)
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        input="".join(f"{line}\n" for line in TYPED),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_replay_trains_the_same_weights_and_generating_needs_no_trainer(
    ready: list[str], warm: str, tmp_path: Path
) -> None:
    # This one starts everything itself; the others are forked, so what they share with it does not depend on that.
    first = run(tmp_path, *QUIET, "run.output=first", "rollout.store=all")
    assert first.code == 0, first.text

    again = run(tmp_path, *QUIET, "run.output=again", f"rollout.replay={tmp_path / 'first'}", *ready)
    assert again.code == 0, again.text
    assert "engines: 0" in again.text
    assert not list((tmp_path / "again" / "logs").glob("engine-*"))
    ours, theirs = (load_file(tmp_path / name / "hf" / "model.safetensors") for name in ("first", "again"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    ended = debugged(tmp_path, *QUIET, "run.output=here", "rollout.store=all", *WATCHED, warm)
    assert ended.returncode == 0, ended.stdout
    lines = ended.stdout.splitlines()
    assert sum(line.startswith("(Pdb) ") for line in lines) == len(TYPED), ended.stdout
    assert "(Pdb) True" in lines, "the label of the arithmetic problem, in the reward"
    assert any(line.endswith(")clip()") for line in lines), ended.stdout
    assert "(Pdb) (1.0, 0.0)" in lines, "the ratio of a first step on-policy, in the loss"
    assert not list((tmp_path / "here" / "logs").glob("rank-*"))
    stored = [
        [
            (s.tokens.tolist(), s.reward)
            for one in (1, 2)
            for g in StoredRollouts(tmp_path / name, "").groups(one)
            for s in g.samples
        ]
        for name in ("first", "here")
    ]
    assert stored[0] == stored[1]
    here = load_file(tmp_path / "here" / "hf" / "model.safetensors")
    assert all(np.array_equal(ours[name], here[name]) for name in ours)

    rescored = run(tmp_path, "rescore", "run.output=first", "reward=none")
    assert rescored.code == 0, rescored.text
    assert "all: 32 samples, reward" in rescored.text
    assert "-> 0.0000" in rescored.text

    given = ["run.output=alone", "rollout.store=all", "run.generate_only=true", "run.iterations=3"]
    alone = run(tmp_path, *QUIET, *given, *ready)
    assert alone.code == 0, alone.text
    assert not list((tmp_path / "alone" / "logs").glob("rank-*"))
    stored = StoredRollouts(tmp_path / "alone", "")
    assert stored.iterations == [1, 2, 3]
    # The weights are those that the first run began with, so its first batch is the same.
    file = Path("rollouts") / "iteration_000001.parquet"
    one, other = (read_groups(tmp_path / name / file) for name in ("first", "alone"))
    assert [s.tokens.tolist() for g in one for s in g.samples] == [s.tokens.tolist() for g in other for s in g.samples]
    assert {int(v) for n in (1, 3) for g in stored.groups(n) for s in g.samples for v in s.versions} == {-1, 0}
