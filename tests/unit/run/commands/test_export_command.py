"""What `export` refuses before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config import machine
from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.errors import UserError
from rlscale.run.commands.convert_command import export
from rlscale.run.disk.checkpoint import MANIFEST


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of GRPO with one checkpoint, as far as `export` looks at it before it loads anything."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "iteration_000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / MANIFEST).write_text(json.dumps({"files": {}}))
    (tmp_path / "run" / "run.json").write_text("{}")
    write_recipe(compose(None), tmp_path / "run")
    return f"run.output={tmp_path / 'run'}"


def test_a_critic_that_is_not_there_is_not_exported(finished_run: str) -> None:
    with pytest.raises(UserError, match=r"model=critic: .* has none \(algorithm grpo\)"):
        export([finished_run, "model=critic"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model=reference", "model=reference: export knows policy and critic"),
        ("run.output=other", "run.output=other: run.output is given twice"),
        ("iteration=3", "has checkpoints of the iterations 4"),
        ("critic=true", "export does not know 'critic=true'; it takes run.output=..., .*, parallel=..., cluster=..."),
        ("parallel.pipeline=99", r"parallel\.pipeline=99 does not divide the .* layers of tiny_qwen3; use 1"),
        ("parallel.tensor=3", r"^parallel\.tensor=3 does not divide the 4 attention heads"),
        ("to=/proc/foo", "to=/proc/foo cannot be written: No such file or directory; choose another folder"),
        ("cluster=node8", "this machine has no GPU; choose cluster=local_cpu"),
    ],
)
def test_what_it_cannot_give_is_said(
    finished_run: str, argument: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    with pytest.raises(UserError, match=message):
        export([finished_run, argument])


def test_a_trainer_of_the_runs_own_recipe_converts_only_where_the_run_is_trusted(
    finished_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.py").write_text("open('ran', 'w').close()\n")
    write_recipe(compose(None, ["trainer._target_=theirs.Trainer", "buffer._target_=theirs.Buffer"]), tmp_path / "run")
    with pytest.raises(UserError) as refused:
        export([finished_run])
    recipe = tmp_path / "run" / "recipe.yaml"
    assert str(refused.value) == (
        f"trainer: runs theirs.Trainer of {tmp_path / 'theirs.py'}; so says {recipe}, and not the command line: if you "
        "trust it, add --trust-run"
    )
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="has none"):
        export([finished_run, "--trust-run", "model=critic"])
    assert f"note: trainer: runs theirs.Trainer of {tmp_path / 'theirs.py'}\n" in capsys.readouterr().err
