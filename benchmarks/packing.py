"""How well rows are packed into micro-batches: `python benchmarks/packing.py`, under a minute on one core.

Lengths of three kinds of training, drawn from fixed seeds; 8, 64 and 512 data-parallel ranks; against padding, first
fit and Karmarkar-Karp alone. It plans only: no model, no ranks, no GPU. docs/benchmarks.md holds a measured table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np
from machine import describe_machine, load_average
from numpy.typing import NDArray
from packing_rivals import Parts, first_fit, first_fit_decreasing, karmarkar_karp, padded
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.data.batches.packing import CostModel, plan

CAP = 32_768
"""Tokens of a micro-batch, and of the longest row."""
ALIGN = 8
"""Rows are padded to this, as for tensor parallelism of 8 with sequence parallelism."""
GROUPS, SAMPLES = 512, 16
BATCHES = ((8, GROUPS * SAMPLES), (64, GROUPS * SAMPLES), (512, GROUPS * SAMPLES), (512, 8 * GROUPS * SAMPLES))
"""Data-parallel ranks and samples of the step."""
DENSE, SPARSE = CostModel(), CostModel(quadratic=1 / 16_000)
"""Qwen3-8B and Qwen3-30B-A3B, whose attention weighs more because a token visits few parameters."""
OURS, LOCKSTEP = "rlscale", "rlscale, lockstep=True"
WASTE_AIM, IMBALANCE_AIM, SECONDS_AIM = 0.02, 1.03, 2.0

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """How good a division is."""

    microbatches: int
    """Of one rank."""
    padding: float
    """Share of the computed tokens that are padding."""
    unused: float
    """Share of all micro-batches' capacity that holds no token of a row."""
    slowest: float
    """Work of the slowest over the mean rank, summed over the step."""
    lockstep: float
    """The same where ranks wait for each other after every micro-batch."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of packing.")
    parser.add_argument("--quick", action="store_true", help="8 and 64 ranks only")
    batches = BATCHES[:2] if parser.parse_args().quick else BATCHES
    console = Console(width=140, highlight=False)
    before = load_average()
    tables = [_comparison(kind, batches) for kind in KINDS]
    tables += [_heavier_attention(), _many_samples()]
    facts = describe_machine()
    console.print(f"{date.today()}; {facts['CPU']}, one core; load average {before} at start, {load_average()} at end")
    for table in tables:
        console.print()
        console.print(table)


def _reasoning(draw: np.random.Generator, count: int) -> Lengths:
    """Prompts of 60-400 tokens, responses log-normal with a median of 1,000 and sigma 1."""
    return _clipped(draw.integers(60, 400, count) + draw.lognormal(np.log(1000), 1.0, count))


def _chat(draw: np.random.Generator, count: int) -> Lengths:
    """Half short answers (median 120), half long ones (median 700), prompts of 20-300 tokens."""
    short, long = draw.lognormal(np.log(120), 0.6, count), draw.lognormal(np.log(700), 0.5, count)
    return _clipped(draw.integers(20, 300, count) + np.where(draw.random(count) < 0.5, short, long))


def _agents(draw: np.random.Generator, count: int) -> Lengths:
    """A prompt of 3,000 tokens and 9 turns on average (geometric), each log-normal with a median of 800."""
    turns = 1 + draw.geometric(1 / 8, count)
    words = draw.lognormal(np.log(800), 0.8, int(turns.sum()))
    return _clipped(3000 + np.add.reduceat(words, np.cumsum(turns) - turns))


KINDS: dict[str, Callable[[np.random.Generator, int], Lengths]] = {
    "reasoning": _reasoning,
    "chat": _chat,
    "agents": _agents,
}


def _clipped(lengths: NDArray) -> Lengths:
    return np.clip(lengths, 16, CAP).astype(np.int64)


def _lengths(kind: str, count: int) -> Lengths:
    return KINDS[kind](np.random.default_rng(0), count)


def _ours(lengths: Lengths, ranks: int, cost: CostModel, lockstep: bool) -> Parts:
    steps = np.zeros(len(lengths), np.int64)
    parts = plan(lengths, steps, ranks, CAP, ALIGN, cost=cost, lockstep=lockstep).parts
    return [[rows.tolist() for rows in rank[0]] for rank in parts]


def _aligned(lengths: Lengths) -> Lengths:
    return -(-lengths // ALIGN) * ALIGN


def _quality(parts: Parts, lengths: Lengths, cost: CostModel, *, pad: bool = False) -> Quality:
    """Of a division; `pad`: every row takes as much as the longest of its micro-batch."""
    aligned = _aligned(lengths)
    computed, work = np.zeros((2, len(parts), len(parts[0])))
    for rank, bins in enumerate(parts):
        for number, rows in enumerate(bins):
            sizes = aligned[rows] if len(rows) else np.array([ALIGN])  # a dummy computes one padding segment
            sizes = np.full(len(sizes), sizes.max()) if pad else sizes
            computed[rank, number], work[rank, number] = sizes.sum(), cost.of(sizes).sum()
    real = int(lengths.sum())
    return Quality(
        microbatches=len(parts[0]),
        padding=1 - real / computed.sum(),
        unused=1 - real / (computed.size * CAP),
        slowest=work.sum(1).max() / work.sum(1).mean(),
        lockstep=work.max(0).sum() / work.sum(1).mean(),
    )


def _least(lengths: Lengths, ranks: int) -> int:
    """Micro-batches per rank that no division can go below (bound of Martello and Toth, for equal numbers)."""
    aligned = _aligned(lengths)
    bound = 0
    for shortest in np.unique(np.append(np.quantile(aligned, np.linspace(0, 1, 200)), 0)).tolist():
        if shortest > CAP / 2:
            break
        alone = (aligned > CAP - shortest).sum()
        large = aligned[(aligned > CAP / 2) & (aligned <= CAP - shortest)]
        small = aligned[(aligned >= shortest) & (aligned <= CAP / 2)]
        more = np.ceil((small.sum() - (len(large) * CAP - large.sum())) / CAP)
        bound = max(bound, int(alone + len(large) + max(more, 0)))
    return -(-bound // ranks)


RIVALS: dict[str, Callable[[Lengths, int, int], Parts]] = {
    "Karmarkar-Karp": karmarkar_karp,
    "longest first fit": first_fit_decreasing,
    "first fit": first_fit,
    "padding": padded,
}


def _comparison(kind: str, batches: tuple[tuple[int, int], ...]) -> Table:
    names = ("ranks", "samples", kind, "micro-batches", "padding", "unused", *_BALANCE, "CPU s")
    table = _table(*names)
    for ranks, samples in batches:
        lengths = _lengths(kind, samples)
        for name in (OURS, *RIVALS):
            parts, seconds, _ = _timed(partial(_divide, name, lengths, ranks))
            quality = _quality(parts, lengths, DENSE, pad=name == "padding")
            count = str(quality.microbatches)
            if name == OURS:
                count += f" (least {_least(lengths, ranks)})"
            table.add_row(
                str(ranks), f"{samples:,}", name, count, *_shares(quality), *_balance(quality), f"{seconds:.2f}"
            )
    return table


def _divide(name: str, lengths: Lengths, ranks: int, cost: CostModel = DENSE) -> Parts:
    if name in (OURS, LOCKSTEP):
        return _ours(lengths, ranks, cost, name == LOCKSTEP)
    return RIVALS[name](_aligned(lengths), ranks, CAP)


def _shares(quality: Quality) -> tuple[str, str]:
    return f"{quality.padding:.1%}", f"{quality.unused:.1%}"


def _balance(quality: Quality) -> tuple[str, str]:
    return f"{quality.slowest:.3f}", f"{quality.lockstep:.3f}"


_BALANCE = ("slowest / mean", "in lockstep")


def _heavier_attention() -> Table:
    """The same with attention that equals everything else at 16,000 tokens."""
    table = _table("ranks", "samples", "lengths", "attention = rest at 16,000 tokens", *_BALANCE)
    ranks, samples = BATCHES[1]
    for kind in KINDS:
        lengths = _lengths(kind, samples)
        for name in (OURS, LOCKSTEP, "Karmarkar-Karp", "longest first fit"):
            quality = _quality(_divide(name, lengths, ranks, SPARSE), lengths, SPARSE)
            table.add_row(str(ranks), f"{samples:,}", kind, name, *_balance(quality))
    return table


def _many_samples() -> Table:
    """100,000 samples in one step on 64 ranks, against the aims."""
    names = ("micro-batches", "padding", "unused", *_BALANCE, "CPU s", "wall s", "aims met")
    table = _table("100,000 samples, 64 ranks", *names)
    for kind in KINDS:
        lengths = _lengths(kind, 100_000)
        parts, seconds, wall = _timed(partial(_divide, OURS, lengths, 64))
        quality = _quality(parts, lengths, DENSE)
        missed = [
            name
            for name, met in (
                ("padding", quality.padding <= WASTE_AIM),
                ("unused", quality.unused <= WASTE_AIM),
                ("slowest", quality.slowest <= IMBALANCE_AIM),
                ("time", seconds < SECONDS_AIM),
            )
            if not met
        ]
        count = f"{quality.microbatches} (least {_least(lengths, 64)})"
        times = (f"{seconds:.2f}", f"{wall:.2f}", "all but " + ", ".join(missed) if missed else "all")
        table.add_row(kind, count, *_shares(quality), *_balance(quality), *times)
    return table


def _timed(way: Callable[[], Parts]) -> tuple[Parts, float, float]:
    """What it returns, CPU seconds, wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    parts = way()
    return parts, time.process_time() - cpu, time.perf_counter() - wall


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    numbers = {"ranks", "samples", "micro-batches", "padding", "unused", *_BALANCE, "CPU s", "wall s"}
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    return table


if __name__ == "__main__":
    main()
