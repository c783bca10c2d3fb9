"""What `run.bitwise` costs a trainer's forward pass, apart from what it costs once in a process.

`python benchmarks/bitwise_forward.py [float32 bfloat16]`: two trainers of `bitwise.py`'s model for costs, one of them
with the switch, each a process by itself with one thread, compute the log-probs of the same 64 answers in micro-batches
of 4,096 tokens in turns, so that whatever else the machine does meets both. CPU seconds: of a trainer's start (which
asks the machine which tiles it has alike), of what the first pass takes more than those after it, and of these.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from bitwise import Answers, Case, batch_of, case_of, model_folder, trainer_of
from machine import describe_machine, load_average

from rlscale.config.schema.model_config import DType
from rlscale.data.batches.packing import plan
from rlscale.data.batches.rank_shard import split

TIMES, MOST = 7, 4096
_trainer: Any = None
_shard: Any = None


def main() -> None:
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print(
        "| type | computed | start | first pass, more | a pass, middle (least) | pairs, middle |\n" + "|---" * 6 + "|"
    )
    for name in sys.argv[1:] or ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory(prefix="bitwise-") as place:
            measure(case_of("cost", DType[name]), Path(place))


def measure(case: Case, place: Path) -> None:
    """Two lines of the table."""
    folder, spawn = model_folder("cost", case, place), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as plain, ProcessPoolExecutor(1, spawn) as bitwise:
        sides = plain, bitwise
        starts = [side.submit(start, case, folder, side is bitwise).result() for side in sides]
        firsts = [side.submit(forward).result() for side in sides]
        turns = [[side.submit(forward).result() for side in sides] for _ in range(TIMES)]
    ratio = statistics.median(own / as_it_is for as_it_is, own in turns)
    for number, told in enumerate(("as it is", "run.bitwise")):
        took = [turn[number] for turn in turns]
        middle = statistics.median(took)
        print(
            f"| {case.dtype.value} | {told} | {starts[number]:.2f} s | {firsts[number] - middle:.2f} s "
            f"| {middle:.2f} s ({min(took):.2f} s) | {f'{ratio:.2f} x' if number else ''} |",
            flush=True,
        )


def start(case: Case, folder: str, bitwise: bool) -> float:
    """Start this process's trainer; CPU seconds."""
    global _trainer, _shard  # what a process of the pool keeps
    torch.set_num_threads(1)
    drawn = random.Random(1)
    prompts = case.prompts()
    answers: Answers = {
        one: ([drawn.randrange(16) for _ in range(case.tokens)], [0.0] * case.tokens) for one in range(len(prompts))
    }
    batch = batch_of(prompts, answers)
    (_shard,) = split(batch, plan(batch.lengths, batch.column("step"), 1, MOST))
    began = time.process_time()
    _trainer = trainer_of(case, folder, 1.0, bitwise)
    return time.process_time() - began


def forward() -> float:
    """A pass over all answers; CPU seconds."""
    began = time.process_time()
    _trainer.logprobs(_shard)
    return time.process_time() - began


if __name__ == "__main__":
    main()
