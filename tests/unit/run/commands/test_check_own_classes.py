"""check-hook of classes that are not called: environments and prompt sources."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.cli import main

DOCS = Path(__file__).parents[4] / "docs"

OWN = """
import time

from rlscale.data.prompts.sources import RawPrompt, Stream
from rlscale.envs.environment import Environment, Start, Step


class Base(Environment):
    async def reset(self, prompt, seed):
        self.prompt, self.turn = prompt, 0
        return Start()

    async def step(self, action):
        self.turn += 1
        return Step(messages=[{"role": "user", "content": "more"}], done=self.turn == 2)


class Shared(Base):
    turns = []

    async def step(self, action):
        Shared.turns.append(action)
        return Step(reward=float(len(Shared.turns)), done=True)


class Endless(Base):
    async def step(self, action):
        return Step(messages=[{"role": "user", "content": "more"}])


class Picky(Base):
    async def step(self, action):
        return Step(reward=1.0 / int(action.text), done=True)


class Meddling(Base):
    async def reset(self, prompt, seed):
        prompt.info["seen"] = True
        return Start()

    async def step(self, action):
        return Step(done=True)


class Speechless(Base):
    async def step(self, action):
        return Step(messages=[{"role": "user", "content": ""}])


class Reasoning(Base):
    async def step(self, action):
        return Step(messages=[{"role": "assistant", "content": "I think"}])


class Blocking(Base):
    async def step(self, action):
        time.sleep(0.15)
        return Step(done=True)


class Gym(Base):
    async def step(self, action):
        return action, 0.0, True, {}


class Unregistered(Base):
    async def step(self, action):
        return Step(done=True, columns={"nowhere": 1.0})


class Hungry(Base):
    async def reset(self, prompt, seed):
        self.goal, self.turn = prompt.info["goal"] + prompt.label, 0
        return Start()


class Squares(Stream):
    def __init__(self, size=30, seed=0):
        super().__init__(size, shuffle=True, seed=seed)

    def item(self, number, index):
        return RawPrompt(index, str(number), f"{number}^2=", str(number * number))


class Forgetful(Squares):
    def load_state_dict(self, state):
        pass


class Repeating(Squares):
    def next(self, n):
        return [self.item(i, i) for i in range(n)]

    def item(self, number, index):
        return RawPrompt(index % 30, "0", "" if number == 7 else "x")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a user's module in it."""
    (tmp_path / "my_classes.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["check-hook", *argv])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out.splitlines()


def example(page: str, word: str) -> str:
    """The one example of a page of the docs that holds the word."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return block


def test_the_environment_of_the_docs_keeps_the_contract(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_environments.py").write_text(example("environments.md", "Environment"), encoding="utf-8")
    code, out = run("my_environments.SecondTry", "tries=3", capsys=capsys)
    assert (code, out[0]) == (0, "my_environments.SecondTry as environment:")
    assert out[-1].endswith(" checks, 0 failed, 0 with a warning")
    assert {line.split("  ")[1] for line in out[1:-1]} >= {
        "reset",
        "step",
        "close",
        "messages",
        "ends",
        "deterministic",
    }


def test_the_shipped_environment_keeps_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run("rlscale.envs.environment.SingleTurn", capsys=capsys)
    assert (code, out[-1].split(", ", 1)[1]) == (0, "0 failed, 0 with a warning")


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("Shared", 0, "warn  deterministic .* turn 0 differs"),
        ("Endless", 0, "warn  ends .* it goes on after 32 turns"),
        ("Picky", 0, "warn  step .* ValueError: invalid literal for int.* it drops the sample"),
        ("Meddling", 1, "fail  arguments .* label, info or messages differ"),
        ("Speechless", 1, "fail  messages .* has no text"),
        ("Reasoning", 1, "fail  messages .* roles assistant; what the policy is shown is by the user or a tool"),
        ("Blocking", 0, r"warn  event loop .* s at most; put long computations into asyncio\.to_thread"),
        ("Gym", 1, "fail  step gives .* a tuple"),
        ("Unregistered", 1, "fail  columns .* a column 'nowhere', which is not registered in the rollout's process"),
        ("Hungry", 1, "fail  reset .* KeyError: 'goal'"),
    ],
)
def test_what_an_environment_does_wrong_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, line: str
) -> None:
    found, out = run(f"my_classes.{name}", capsys=capsys)
    assert any(re.match(line, printed) for printed in out), out
    assert found == code


def test_episodes_may_begin_with_a_row_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run("my_classes.Hungry", "row={prompt: go, label: a, goal: b}", capsys=capsys)
    assert (code, out[-1].split(", ", 1)[1]) == (0, "0 failed, 0 with a warning")
    assert main(["check-hook", "my_classes.Hungry", "row=5"]) != 0
    assert "row=5: must be a mapping such as {prompt: 2+2=, label: 4}" in capsys.readouterr().err


def test_a_source_of_ones_own_is_read_and_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_source.py").write_text(example("data.md", "(Stream)"), encoding="utf-8")
    for name, argument in (("my_source.Countdown", "start=50"), ("my_classes.Squares", "size=1")):
        code, out = run(name, argument, capsys=capsys)
        assert (code, out[0]) == (0, f"{name} as source:")
        assert out[-1].split(", ", 1)[1] == "0 failed, 0 with a warning"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("Forgetful", ["fail  state .* prompt"]),
        ("Repeating", ["fail  index .* number 30 has the index 0", "warn  id ", "fail  prompt .* is empty"]),
    ],
)
def test_what_a_source_does_wrong_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, lines: list[str]
) -> None:
    code, out = run(f"my_classes.{name}", capsys=capsys)
    assert code == 1
    for line in lines:
        assert any(re.match(line, printed) for printed in out), out


def test_the_batch_field_of_the_docs_is_brought_and_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_field.py").write_text(example("developing.md", "example_weight"), encoding="utf-8")
    for name, kind in (("weighed", "loss"), ("Weighing", "environment")):
        code, out = run(f"my_field.{name}", capsys=capsys)
        assert (code, out[0]) == (0, f"my_field.{name} as {kind}:")
        assert out[-1].endswith(" checks, 0 failed, 0 with a warning")
    assert any(re.match("pass  columns .* found: example_weight", line) for line in out)
