"""A run to which one thing after another happens, and what became of it each time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fault_cells import PROCESSES, SERVING, Cell
from fault_outcome import WELL, Outcome
from faulty_run import Ended, FaultyRun
from harms import FAULTS
from psutil import Process

from rlscale.observe.jsonl import read

LIMIT_S = 180.0
"""A run that is neither further nor at its end after so long hangs; starting one may take twice as long."""
STOPPED = 130
"""Exit code of a command that was asked to end."""
_DRIVER_FOUND_S = 5.0
"""After so long somebody ends a command that he finds hanging."""


@dataclass(frozen=True)
class Row:
    """What became of some cells."""

    cells: Sequence[Cell]
    happens: str
    seconds: float | None
    """Until the run was further, or had ended; None where the cells did not take place."""
    afterwards: str
    """WELL, or what was not."""

    @property
    def columns(self) -> list[str]:
        """Of the table, for a single cell."""
        (cell,) = self.cells
        seconds = "" if self.seconds is None else f"{self.seconds:.0f}"
        return [cell.process, cell.fault, cell.phase, self.happens, seconds, self.afterwards]


class Chain:
    """A run to which one thing after another happens. A context manager, which stops it."""

    def __init__(
        self,
        folder: Path,
        start: Callable[[Path], FaultyRun],
        calm: Outcome | None,
        *,
        further: int = 2,
        scale: float = 1.0,
        slack: float = 1.0,
    ) -> None:
        """`start` starts the command in a folder, also to continue it; `calm`: see `Outcome.differs`.

        `further`: iterations that show that a run goes on. `scale`: of the times that faults last. `slack`: of limits,
        where others compute beside.
        """
        folder.mkdir(exist_ok=True)
        self._folder, self._start, self._calm = folder, start, calm
        self._further, self._scale, self._slack = further, scale, slack
        self._run: FaultyRun | None = None

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_if_it_runs()

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return (self._folder / "run" / "hf" / "model.safetensors").exists()

    def finish(self) -> list[str]:
        """Let it come to its end; what is not as undisturbed then."""
        if not self.finished:
            ended = self._running().end(10 * LIMIT_S)
            self._run = None
            if ended.code != 0:
                return [f"ended with {ended.code}: {ended.last}", *self._differs()]
        return self._differs()

    def play(self, *cells: Cell) -> Row:
        """Do all that to it at once; the cells are of one phase. With `start` or `stop` to a command of its own."""
        (phase,) = {cell.phase for cell in cells}
        if phase == "start":
            self._end_if_it_runs()
        run = self._running()
        words = [PROCESSES[cell.process] for cell in cells]
        if not run.await_phase(phase, 2 * LIMIT_S, words):
            why = run.last if run.ended else f"within {2 * LIMIT_S:.0f} s"
            return Row(cells, "never came to that phase", None, why)
        serving = run.named(*(word for name in SERVING for word in PROCESSES[name]))
        hit, began, before = [run.named(*one) for one in words], time.monotonic(), run.trained
        if phase == "stop":  # looking for them takes longer than some of them still live then
            run.signal(signal.SIGTERM)
        faults = [f"no such process: {cell.process}" for cell, those in zip(cells, hit, strict=True) if not those]
        goes_on = self._befalls(run, cells, hit)
        said, seconds = "goes on", (run.ended_at or time.monotonic()) - began
        if not goes_on:
            said, more = self._what_became_of(cells, run.end(1.0), before)
            faults += more
        elif _concerns_ranks_alone(cells):
            faults += [] if all(one.is_running() for one in serving) else ["servers were started again"]
            faults += _generated_again(self._folder / "run", before)
        if seconds > (limit := self._slack * max(cell.limit_s for cell in cells)):
            faults.append(f"took more than {limit:.0f} s")
        return Row(cells, said, seconds, "; ".join([*faults, *self._differs()]) or WELL)

    def _befalls(self, run: FaultyRun, cells: Sequence[Cell], hit: Sequence[Sequence[Process]]) -> bool:
        """Let it happen until the run is further, which is true, or has ended or hangs."""
        with ThreadPoolExecutor(len(cells)) as threads, ExitStack() as over:

            def one(cell: Cell, processes: Sequence[Process]) -> None:
                over.enter_context(FAULTS[cell.fault](processes, self._scale))
                if cell.process == "driver" and cell.fault == "stop":
                    time.sleep(_DRIVER_FOUND_S * self._scale)
                    for process in processes:
                        process.kill()

            list(threads.map(one, cells, hit))
            return run.await_trained(run.trained + self._further, LIMIT_S)

    def _what_became_of(self, cells: Sequence[Cell], ended: Ended, before: int) -> tuple[str, list[str]]:
        """Of a command that is over, and of the same one after it; and what was wrong with that."""
        self._run = None
        faults = [f"left: {', '.join(ended.left)}"] if ended.left else []
        if ended.code is None:
            faults.append(f"no end within {LIMIT_S:.0f} s")
        if ended.code != 0 and all(cell.ends_no_run for cell in cells):
            faults.append("the run ended")
        by_itself = ended.code not in (0, STOPPED, None) and all(cell.process != "driver" for cell in cells)
        if (by_itself and not ended.line) or "Traceback" in ended.text:
            faults.append("no line that says why")
        if ended.code == 0:
            return "goes on to its end", faults
        again = self._running()
        if not again.await_trained(before + self._further, 2 * LIMIT_S) and not self.finished:
            faults.append(f"the same command: {again.last if again.ended else 'hangs'}")
        said = ended.line or {STOPPED: "stopped", None: "hangs"}.get(ended.code, f"ended by {ended.code}")
        return f"{said.replace(str(self._folder), '')[:240]}, then resumed", faults

    def _differs(self) -> list[str]:
        return Outcome.of(self._folder / "run").differs(self._calm)

    def _running(self) -> FaultyRun:
        if self._run is None or self._run.ended:
            self._run = self._start(self._folder)
        return self._run

    def _end_if_it_runs(self) -> None:
        if self._run is not None:
            self._run.signal(signal.SIGTERM)
            self._run.end(LIMIT_S)
            self._run = None


def _concerns_ranks_alone(cells: Sequence[Cell]) -> bool:
    return all(cell.process == "rank" and cell.ends_no_run for cell in cells)


def _generated_again(folder: Path, before: int) -> list[str]:
    """Whether requests were sent twice in iterations after the first `before`; a run counts them from its start."""
    rows = [row for row in read(folder / "metrics.jsonl") if "weight_version" in row]
    counts = {row["iteration"]: row["retried_requests"] + row["interrupted_requests"] for row in rows}
    again = max(counts.values()) - counts.get(before, 0)
    return [f"{again:.0f} requests were sent again"] if again > 0 else []
