"""Cells of a study: runs of one recipe that differ in a setting, a correction and a seed, each made once and kept.

A cell has a folder of its own below the study's, with the run in it and, once that has ended, `cell.json`: so a study
goes on where it stopped, and a second study that asks for the same cell finds it. One whose run was of another
configuration (another default counts) or by another version of rlscale is refused. Runs of one seed start from one
model and share processes that have imported everything (`python -m rlscale warm`).
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlscale import __version__
from rlscale.config.composition.compose import compose
from rlscale.config.keys import config_hash
from rlscale.observe.atomic import write_text
from rlscale.observe.metrics import read_metrics
from rlscale.observe.summary import Summary
from rlscale.run.disk.run_folder import MARK

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
        """The mean of a metric over the last iterations; not a number where no iteration had it."""
        values = [value for _, value in self.curve(metric)[-iterations:]]
        return sum(values) / len(values) if values else math.nan

    def mean(self, metric: str) -> float:
        """The mean of a metric over all iterations, likewise."""
        return self.late(metric, len(self.rows))

    def largest(self, metric: str) -> float:
        """The largest of all iterations, likewise."""
        return max((value for _, value in self.curve(metric)), default=math.nan)


def made_by(run: Path) -> tuple[str, str]:
    """Hash of a run's configuration, and the version of rlscale that made it."""
    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    return json.loads((run / MARK).read_text())["config_hash"], resolved["ran_on"]["rlscale"]


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
        if made_by(file.parent / "run") != (config_hash(compose(None, self._words(cell))), __version__):
            sys.exit(f"{file.parent}: made with other defaults or versions; name another folder, or remove this one")
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
        self._make_model(cell.seed, warm)
        self._train(folder / "run", warm, *self._words(cell))
        write_text(folder / "cell.json", json.dumps(cell.overrides))

    def _words(self, cell: Cell) -> list[str]:
        """What a cell's run is of."""
        return [*ALWAYS, f"model.init={self._start(cell.seed) / 'hf'}", f"run.seed={cell.seed}", *cell.overrides]

    def _start(self, seed: int) -> Path:
        """The run whose model all cells of a seed start from."""
        return self._folder / f"start-{seed}"

    def _make_model(self, seed: int, warm: str) -> None:
        made = self._start(seed)
        if not made.is_dir():
            trying = made.with_name(f"{made.name}.trying")
            self._train(trying, warm, *START, f"run.seed={seed}")
            trying.rename(made)

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
