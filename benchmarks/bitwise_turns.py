"""What `run.bitwise` costs engines and a trainer's forward pass, in turns, apart from what it costs once in a process.

`python benchmarks/bitwise_turns.py [forward engine] [float32 bfloat16]`: of `bitwise.py`'s model for costs two trainers
and two engines, one of each with the switch, each a process by itself with one thread. The trainers compute the
log-probs of the same 64 answers in micro-batches of 4,096 tokens, the engines answer the same 64 prompts, as it is and
with the switch in turns, so that whatever else the machine does meets both. CPU seconds: of the start (the machine is
asked which tiles it has alike), of what the first turn takes more than those after it, and of these.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from bitwise import Answers, Case, ask, batch_of, case_of, computed, engine_of, flush, model_folder, trainer_of
from machine import describe_machine, load_average

from rlscale.config.schema.model_config import DType
from rlscale.data.batches.packing import plan
from rlscale.data.batches.rank_shard import split
from rlscale.serve.supervisor import Supervisor

MOST = 4096


@dataclass(frozen=True)
class Part:
    """What is measured."""

    start: Callable[[Case, str, bool], float]
    """CPU seconds of a start with or without the switch, from which on `turn` may be called in the process."""
    turn: Callable[[], float]
    """CPU seconds of what is measured."""
    end: Callable[[], None]
    times: int


_kept: list[Callable[[], None]] = []
"""What a process of a pool does in its turn and in the end."""


def main() -> None:
    chosen = [name for name in sys.argv[1:] if name in PARTS]
    types = [name for name in sys.argv[1:] if name not in PARTS]
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print("| part | type | computed | start | first turn, more | a turn, middle (least) | pairs, middle |")
    print("|---" * 7 + "|")
    for name in chosen or PARTS:
        for dtype in types or ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory(prefix="bitwise-") as place:
                measure(name, case_of("cost", DType[dtype]), Path(place))


def measure(name: str, case: Case, place: Path) -> None:
    """Two lines of the table."""
    part, folder = PARTS[name], model_folder("cost", case, place)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as plain, ProcessPoolExecutor(1, spawn) as bitwise:
        sides = plain, bitwise
        starts = [side.submit(part.start, case, folder, side is bitwise).result() for side in sides]
        try:
            turns = [[side.submit(part.turn).result() for side in sides] for _ in range(part.times + 1)]
        finally:
            for side in sides:
                side.submit(part.end).result()
    first, *turns = turns
    ratio = statistics.median(own / as_it_is for as_it_is, own in turns)
    for number, told in enumerate(("as it is", "run.bitwise")):
        took = [turn[number] for turn in turns]
        middle = statistics.median(took)
        print(
            f"| {name} | {case.dtype.value} | {told} | {starts[number]:.2f} s | {first[number] - middle:.2f} s "
            f"| {middle:.2f} s ({min(took):.2f} s) | {f'{ratio:.2f} x' if number else ''} |",
            flush=True,
        )


def start_trainer(case: Case, folder: str, bitwise: bool) -> float:
    torch.set_num_threads(1)
    drawn = random.Random(1)
    prompts = case.prompts()
    answers: Answers = {
        one: ([drawn.randrange(16) for _ in range(case.tokens)], [0.0] * case.tokens) for one in range(len(prompts))
    }
    batch = batch_of(prompts, answers)
    (shard,) = split(batch, plan(batch.lengths, batch.column("step"), 1, MOST))
    began = time.process_time()
    trainer = trainer_of(case, folder, 1.0, bitwise)
    _kept[:] = [lambda: trainer.logprobs(shard), trainer.close]
    return time.process_time() - began


def forward() -> float:
    began = time.process_time()
    _kept[0]()
    return time.process_time() - began


def start_engine(case: Case, folder: str, bitwise: bool) -> float:
    place = Path(tempfile.mkdtemp(dir=Path(folder).parent))
    supervisor = Supervisor(place / "logs", place / "scratch", "key")
    url = engine_of(case, folder, supervisor, bitwise)

    def turn() -> None:
        flush(url)
        ask(case, url, list(range(case.requests)), 1.0)

    _kept[:] = [turn, supervisor.stop]
    return computed()


def answers() -> float:
    began = computed()
    _kept[0]()
    return computed() - began


def end() -> None:
    _kept[1]()


PARTS = {"forward": Part(start_trainer, forward, end, 7), "engine": Part(start_engine, answers, end, 3)}

if __name__ == "__main__":
    main()
