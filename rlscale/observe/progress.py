"""Progress on the terminal: redrawn in place where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlscale.config.schema.run_config import Progress as Mode
from rlscale.config.schema.run_config import RunSection
from rlscale.config.shown import say
from rlscale.observe.formatting import count, duration, figure, percent, visible

_SPARKS = "▁▂▃▄▅▆▇█"
_PLAIN_EVERY_S = 2.0

SHOWN = (
    ("reward", "reward"),
    ("accuracy", "accuracy"),
    ("response_length", "length"),
    ("tokens_per_s", "tokens/s"),
    ("loss", "loss"),
    ("teacher_kl", "teacher KL"),
    ("critic_loss", "critic loss"),
    ("explained_variance", "expl. variance"),
    ("entropy", "entropy"),
    ("logprob_diff_mean", "log-prob diff"),
)
"""Metrics that are shown, with the word for each; a metric that a run does not have is left out."""


class Eta:
    """Time left, from the mean time of the iterations that this process has done (evaluations and syncs included)."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def start(self, iteration: int, now: float) -> None:
        """`iteration` iterations are done at `now`, seconds on a monotonic clock; counting starts here."""
        self._first = self._last = (iteration, now)

    def done(self, iteration: int, now: float) -> None:
        """`iteration` iterations are done at `now`."""
        self._last = (iteration, now)

    def left(self, total: int, now: float) -> float | None:
        """Seconds left until `total` iterations are done; None before the first one."""
        if self._first is None or self._last is None or self._last[0] <= self._first[0]:
            return None
        mean = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return max(0.0, (total - self._last[0]) * mean - (now - self._last[1]))


class Progress:
    """What the user sees of a run.

    `phase` names what is happening, `iteration` reports one that is done with its metrics (those of `SHOWN`, and
    `accuracy` keeps its last value), `note` says something once. A context manager; close it before printing otherwise.
    """

    def __init__(self, title: str, total: int, mode: Mode | str = Mode.auto, file: IO[str] | None = None) -> None:
        self._console = Console(file=file or sys.stdout, highlight=False)
        self._title, self._total, self._start = visible(f"rlscale · {title}"), total, time.monotonic()
        self._phase, self._phase_since = "starting", self._start
        self._done, self._looping, self._eta = 0, False, Eta()
        self._latest: dict[str, float] = {}
        self._rewards: deque[float] = deque(maxlen=240)
        self._printed_at = float("-inf")
        self._live: Live | None = None
        if Mode(mode) is Mode.live or (Mode(mode) is Mode.auto and self._console.is_terminal):
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4, transient=False)
            self._live.start()

    @classmethod
    def of(cls, run: RunSection) -> Progress:
        """As a run asks for it; where the terminal may become a debugger's, nothing is drawn over it."""
        return cls(run.recipe, run.iterations, Mode.plain if run.in_process else run.progress)

    def phase(self, name: str) -> None:
        """Say what is happening now: "starting engines", "generating", "training"…"""
        if name == self._phase:
            return
        self._phase, self._phase_since = name, time.monotonic()
        # The phases of every iteration would drown a log file; those outside the loop are worth a line each.
        if self._live is None and (not self._looping or self._done >= self._total):
            self._line(name)

    def begin(self, done: int = 0) -> None:
        """The loop begins with `done` iterations behind it; the time left is counted from here."""
        self._done, self._looping = done, True
        self._eta.start(done, time.monotonic())

    def iteration(self, done: int, total: int, metrics: Mapping[str, Any]) -> None:
        """`done` of `total` iterations are behind us; metrics of the last one."""
        now = time.monotonic()
        if not self._looping:
            self.begin(done)
        self._done, self._total = done, total
        self._eta.done(done, now)
        self.show(metrics)
        if "reward" in metrics:
            self._rewards.append(float(metrics["reward"]))
        if self._live is None and (now - self._printed_at >= _PLAIN_EVERY_S or done in (1, total)):
            self._printed_at = now
            self._line(f"iteration {done}/{total}  " + "  ".join(self._words()))

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Take metrics that came outside an iteration, such as the accuracy of an evaluation."""
        for name, _ in SHOWN:
            if isinstance(metrics.get(name), (int, float)):
                self._latest[name] = float(metrics[name])

    def note(self, text: str) -> None:
        """Say something once; it stays above the panel."""
        text = visible(text)
        if self._live is None:
            self._line(text)
        else:
            self._live.console.print(Text(text))

    def close(self) -> None:
        """Stop redrawing and leave the last picture. May be called twice."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, text: str) -> None:
        """One line that is never wrapped, with the seconds since the start before it."""
        say(f"[{time.monotonic() - self._start:7.1f}s] {text}", self._console.file)

    def _words(self) -> list[str]:
        words = [f"{word} {_value(name, self._latest[name])}" for name, word in SHOWN if name in self._latest]
        left = self._eta.left(self._total, time.monotonic())
        return words if left is None else [*words, f"left {duration(left)}"]

    def _draw(self) -> RenderableType:
        now = time.monotonic()
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True, ratio=1)
        head.add_column(justify="right", no_wrap=True)
        phase = Text.assemble(("● ", "cyan"), (self._phase, "bold"), (f"  {duration(now - self._phase_since)}", "dim"))
        clock = Text(f"elapsed {duration(now - self._start)}", style="dim")
        left = self._eta.left(self._total, now)
        if left is not None and self._done < self._total:
            clock.append(f"   left {duration(left)}", style="cyan")
        head.add_row(phase, clock)
        parts: list[RenderableType] = [head]
        if self._looping and self._total:
            parts.append(self._bar())
        if self._latest:
            parts.append(self._numbers())
        return Panel(
            Group(*parts), title=Text(self._title, style="bold"), title_align="left", box=box.ROUNDED, expand=True
        )

    def _bar(self) -> RenderableType:
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=self._total, completed=self._done, complete_style="cyan", finished_style="green")
        row.add_row(f"iteration {self._done}/{self._total}", bar, percent(self._done / self._total))
        return row

    def _numbers(self) -> RenderableType:
        shown = [(word, _value(name, self._latest[name])) for name, word in SHOWN if name in self._latest]
        # As many as fit: a column takes its widest text and a gap.
        columns = max(1, (self._console.width - 4) // 16)
        table = Table.grid(padding=(0, 3))
        for word, _ in shown[:columns]:
            table.add_column(word)
        table.add_row(*(Text(word, style="dim") for word, _ in shown[:columns]))
        table.add_row(*(Text(value, style="bold") for _, value in shown[:columns]))
        if len(self._rewards) < 2:
            return table
        line = Text.assemble(("reward ", "dim"), (sparkline(list(self._rewards), self._console.width - 13), "cyan"))
        line.no_wrap = True
        return Group(table, line)


def sparkline(values: list[float], width: int) -> str:
    """The values as a row of at most `width` block characters, each the mean of its share of the values."""
    width = max(1, min(width, len(values)))
    means = []
    for i in range(width):
        part = values[i * len(values) // width : (i + 1) * len(values) // width]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((mean - low) * scale)] for mean in means)


def _value(name: str, value: float) -> str:
    if name == "accuracy":
        return percent(value)
    if name == "tokens_per_s":
        return count(value)
    return f"{value:.3f}" if name == "reward" else figure(value)
