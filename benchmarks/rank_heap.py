"""How much memory a rank takes over hundreds of steps, by how it allocates.

    python benchmarks/rank_heap.py [--steps 400] [--rows 64] [--save-every 10]

A process for each way: one that is started like any other; with glibc told what a rank tells it where there is no
jemalloc; and with what a rank is started with. Each makes the same optimizer steps of GRPO, on rows of 8 to 14 tokens
whose lengths are others in each step, as responses have, and writes a checkpoint from a copy every so many steps, if
that is asked for. They run beside each other, as each uses one thread.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from loop import prepare_trainer
from machine import load_average
from token_rows import TokenRows
from trainer_sides import start_trainer, steps_of
from trainer_speed import Side

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.process_environment import rank_environment

if TYPE_CHECKING:
    from rlscale.trainer.megatron.trainer import MegatronTrainer

SHORTEST, LONGEST = 8, 14
LOOKS = (1 / 20, 1 / 4, 1 / 2, 1)
"""When memory is looked at, as shares of the steps."""
_LONGEST_S = 7200.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=64, help="samples of a step")
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS")
    options = parser.parse_args()
    looks = [round(share * options.steps) for share in LOOKS]
    if looks[0] < 1:
        parser.error(f"--steps must be at least {round(1 / LOOKS[0])}")
    with tempfile.TemporaryDirectory(prefix="rlscale-benchmark-") as folder:
        spec, vocabulary, _ = prepare_trainer(Path(folder))
        sides = {
            name: Side(_serve, (spec, vocabulary, looks, options.rows, options.save_every), own)
            for name, own in ways().items()
        }
        try:
            found = {name: side.answer(_LONGEST_S) for name, side in sides.items()}
        finally:
            for side in sides.values():
                side.close()
    print(f"{options.steps} steps of {options.rows} rows; load {load_average()}\n")
    print(f"| MB resident at step | {' | '.join(map(str, looks))} | growth | CPU s | page faults |")
    print(f"|---|{'--:|' * (len(looks) + 3)}")
    for name, (resident, seconds, faults) in found.items():
        figures = [f"{megabytes:.1f}" for megabytes in resident]
        growth = resident[-1] / resident[0] - 1
        print(f"| {name} | {' | '.join(figures)} | {growth:+.1%} | {seconds:.0f} | {faults:,} |")


def ways() -> dict[str, Mapping[str, str]]:
    """Variables for a process of each way."""
    rank = rank_environment(Device.cpu, 1)
    threads = {"OMP_NUM_THREADS": "1"}
    glibc = {name: value for name, value in rank.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")}
    return {"glibc as it comes": threads, "glibc as a rank tells it": glibc, "a rank": rank}


def _serve(pipe: Connection, spec: Any, vocabulary: int, looks: list[int], rows: int, save_every: int) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Megatron names at every start what is not installed
    trainer = start_trainer(spec)
    prepare, draw, resident = steps_of(trainer, spec), np.random.default_rng(0), []
    for step in range(1, looks[-1] + 1):
        offsets = np.concatenate([[0], np.cumsum(draw.integers(SHORTEST, LONGEST + 1, rows))])
        prepare(TokenRows(draw.integers(0, vocabulary, int(offsets[-1])), offsets))()
        if save_every and step % save_every == 0:
            save(trainer)
        if step in looks:
            resident.append(psutil.Process().memory_info().rss / 1e6)
    trainer.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((resident, used.ru_utime + used.ru_stime, used.ru_minflt))


def save(trainer: MegatronTrainer) -> None:
    """As a run does: from a copy, in a thread."""
    with tempfile.TemporaryDirectory(prefix="rlscale-benchmark-") as folder:
        trainer.begin_save(folder, copy=True)
        trainer.finish_save()


if __name__ == "__main__":
    main()
