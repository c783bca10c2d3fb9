"""Import, a run from it that changes its layout half-way, export: the forms of a model on disk and between them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.run.command import Started, run

pytestmark = pytest.mark.timeout(600)


def damage(file: Path) -> None:
    """Other bytes in the middle of a file, its size unchanged."""
    with open(file, "r+b") as content:
        content.seek(file.stat().st_size // 2)
        bytes_there = content.read(64)
        content.seek(-len(bytes_there), 1)
        content.write(bytes(value ^ 255 for value in bytes_there))


def test_an_imported_model_is_trained_on_in_another_layout_and_exported(ready: list[str], tmp_path: Path) -> None:
    imported = run(tmp_path, "import", "to=imported", "parallel.tensor=2", *ready)
    assert imported.code == 0, imported.text
    assert not list(tmp_path.glob(".imported*"))
    given = ["recipe=arithmetic_sft", "run.output=out", "run.iterations=4000", "checkpoint.every=1"]
    given += [*ready, "run.progress=plain", "eval.enabled=false", f"model.init={tmp_path / 'imported'}"]
    with Started(tmp_path, *given) as first:
        first.wait_for("/4000")
        while len(list((tmp_path / "out" / "checkpoints").glob("iteration_*"))) < 2:
            time.sleep(0.1)
        first.signal(signal.SIGTERM)
        assert first.process.wait(timeout=60) == 130, first.log.read_text()
    older, damaged = sorted((tmp_path / "out" / "checkpoints").glob("iteration_*"))
    damage(damaged / "trainer" / "__0_0.distcp")
    with Started(tmp_path, *given, "parallel.tensor=2") as second:
        second.wait_for(f"({older})")
        assert f"{damaged} is skipped: trainer/__0_0.distcp is not what was written" in second.log.read_text()
        # A stop before the first save would leave the damaged one the newest, and an export of that is refused.
        while max((tmp_path / "out" / "checkpoints").glob("iteration_*")) == damaged:
            assert second.alive(), second.log.read_text()
            time.sleep(0.1)
        second.signal(signal.SIGTERM)
        assert second.process.wait(timeout=60) == 130, second.log.read_text()
    newest = max((tmp_path / "out" / "checkpoints").glob("iteration_*"))
    exported = run(tmp_path, "export", "run.output=out", "to=exported", *ready)
    assert exported.code == 0, exported.text
    assert str(newest.name) in exported.text
    begun = load_file(next((tmp_path / ".rlscale" / "models").glob("*")) / "model.safetensors")
    trained = load_file(tmp_path / "exported" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in trained.items()} == {n: t.shape for n, t in begun.items()}
    assert all((trained[name] - tensor).abs().max() > 0 for name, tensor in begun.items())
    assert all((trained[name] - tensor).abs().mean() < 0.02 for name, tensor in begun.items()), (
        "not the imported weights"
    )
