"""Cells of a study: runs of one recipe that differ in a setting, a correction and a seed, each made once and kept.

A cell has a folder of its own below the study's, with the run in it and, once that has ended, `cell.json`: so a study
goes on where it stopped, and a second study that asks for the same cell finds it. Runs of one seed start from one model
and share processes that have imported everything (`python -m rlscale warm`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlscale.observe.atomic import write_text
from rlscale.observe.metrics import read_metrics
from rlscale.observe.summary import Summary

START = ("recipe=arithmetic_sft", "run.progress=plain")
"""The run that makes the model of a seed: the recipe's own warm start."""
ALWAYS = ("warm_start=null", "checkpoint.every=0", "checkpoint.resume=never", "eval.every=0", "run.progress=plain")
STARTING_S, RUNNING_S = 120.0, 3000.0
"""Limits, on a machine that does other work besides."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    setting: str
    """Its name, and that of a folder."""
    correction: str
    seed: int
    overrides: tuple[str, ...]
    """What makes it differ from the recipe, besides its seed, its model and its folder."""

    @property
    def place(self) -> Path:
        """Its folder, seen from the study's."""
        return Path(
            self.setting.replace(" ", "_"), self.correction.replace(", ", "-").replace(" ", "_"), str(self.seed)
        )


@dataclass(frozen=True)
class Outcome:
    """What a cell came to."""

    before: float
    after: float
    """Accuracy on the held-out problems, before the first iteration and after the last one."""
    rows: list[dict[str, float]]
    """The metrics of its iterations."""

    def curve(self, metric: str) -> list[Point]:
        """A metric by iterations, where it was measured."""
        return [(row["iteration"], row[metric]) for row in self.rows if metric in row]

    def late(self, metric: str, iterations: int = 10) -> float:
        """The mean of a metric over the last iterations."""
        values = [value for _, value in self.curve(metric)[-iterations:]]
        return sum(values) / len(values)


class Study:
    """A folder with cells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)

    def outcome(self, cell: Cell) -> Outcome | None:
        """What a cell came to, or None if it has still to run. SystemExit if another run lies in its place."""
        file = self._folder / cell.place / "cell.json"
        if not file.is_file():
            return None
        if json.loads(file.read_text()) != list(cell.overrides):
            sys.exit(f"{file.parent}: made with other overrides; name another folder, or remove this one")
        summary = Summary.read(file.parent / "run")
        assert summary is not None
        assert summary.eval_before is not None
        assert summary.eval_after is not None
        return Outcome(summary.eval_before, summary.eval_after, read_metrics(file.parent / "run"))

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """Make the cells that are not there yet, one after another; each with its seconds of wall time."""
        missing = [cell for cell in cells if self.outcome(cell) is None]
        if missing:
            with _forks(self._folder) as warm:
                for cell in missing:
                    began = time.monotonic()
                    self._make(cell, warm)
                    yield cell, time.monotonic() - began

    def _make(self, cell: Cell, warm: str) -> None:
        folder = self._folder / cell.place
        model = self._model(cell.seed, warm)
        self._train(folder / "run", warm, *ALWAYS, f"model.init={model}", f"run.seed={cell.seed}", *cell.overrides)
        write_text(folder / "cell.json", json.dumps(cell.overrides))

    def _model(self, seed: int, warm: str) -> Path:
        """The model that all cells of a seed start from."""
        made = self._folder / f"start-{seed}"
        if not made.is_dir():
            trying = self._folder / f"start-{seed}.trying"
            self._train(trying, warm, *START, f"run.seed={seed}")
            trying.rename(made)
        return made / "hf"

    def _train(self, output: Path, warm: str, *overrides: str) -> None:
        shutil.rmtree(output, ignore_errors=True)  # of a run that was cut off
        output.parent.mkdir(parents=True, exist_ok=True)
        log = output.with_suffix(".log")
        command = [sys.executable, "-m", "rlscale", *overrides, warm, f"run.output={output}"]
        with log.open("w") as printed:
            done = subprocess.run(
                command, cwd=self._folder, stdout=printed, stderr=subprocess.STDOUT, timeout=RUNNING_S, check=False
            )
        if done.returncode:
            sys.exit(f"{log}: the run ended with {done.returncode}: {log.read_text().strip().splitlines()[-1:]}")


@contextmanager
def _forks(folder: Path) -> Iterator[str]:
    """The override by which runs start from processes that have imported everything."""
    file = folder / "warm.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "rlscale", "warm", f"file={file}"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + STARTING_S
            while not file.is_file():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{' '.join(command[2:])}: not ready")
                time.sleep(0.2)
            yield f"cluster.warm={file}"
        finally:
            process.terminate()
