"""The plan's memory beside what trainer ranks take: `python benchmarks/plan_memory.py`, two minutes on two cores.

Each line is one or more real ranks on the CPU that make one step; the fullest rank counts. What a rank takes is what
torch's allocator gave it from its first tensor on: what Python and its libraries take before that is none of it. The
plan's other validation, against what others published of GPUs, is in tests/unit/plan.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dist"))  # the ranks import its modules by their names

from planned_memory import Case, measured_and_planned
from rank_pool import RankPool

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import Recompute

_EIGHT = {"num_hidden_layers": 8, "hidden_size": 384, "intermediate_size": 1024}
CASES = (
    Case("4 layers of 256, 2048 tokens"),
    Case("1024 tokens", tokens=1024),
    Case("4096 tokens", tokens=4096, microbatches=1),
    Case("8 layers of 384", sizes=_EIGHT),
    Case("vocabulary 32768", sizes={"vocab_size": 32768}),
    Case("tied, recompute full", kind="tied", recompute=Recompute.full),
    Case("recompute full, 4096 tokens", recompute=Recompute.full, tokens=4096, microbatches=1),
    Case("recompute selective", recompute=Recompute.selective),
    Case("bfloat16", dtype=DType.bfloat16),
    Case("bfloat16, 8 layers of 384", dtype=DType.bfloat16, sizes=_EIGHT),
    Case("experts", kind="moe"),
    Case("TP 2 with sequence", parallel={"tensor": 2, "sequence": True}),
    Case("TP 2", parallel={"tensor": 2}),
    Case("PP 2", parallel={"pipeline": 2}, microbatches=4),
    Case("CP 2", parallel={"context": 2}),
    Case("CP 2, recompute selective", parallel={"context": 2}, recompute=Recompute.selective),
    Case("DP 2, sharded optimizer", parallel={"data": 2}, sharded=True),
    Case("DP 2, sharded, bfloat16", parallel={"data": 2}, sharded=True, dtype=DType.bfloat16),
    Case("experts, EP 2", kind="moe", parallel={"data": 2, "expert": 2}),
)
_HALF = DType.bfloat16
AFTERWARDS = (
    Case("TP 2, bfloat16", parallel={"tensor": 2}, dtype=_HALF),
    Case("experts, bfloat16", kind="moe", dtype=_HALF),
    Case("PP 2, recompute full", parallel={"pipeline": 2}, microbatches=4, recompute=Recompute.full),
    Case(
        "6 layers of 512, inner 1024",
        sizes={"num_hidden_layers": 6, "hidden_size": 512, "intermediate_size": 1024},
    ),
    Case("CP 2, bfloat16", parallel={"context": 2}, dtype=_HALF),
    Case("tied, vocabulary 16384, 1536 tokens", kind="tied", sizes={"vocab_size": 16384}, tokens=1536),
    Case("DP 2, recompute full, bfloat16", parallel={"data": 2}, recompute=Recompute.full, dtype=_HALF),
    Case("TP 2 with sequence, 3 layers", parallel={"tensor": 2, "sequence": True}, sizes={"num_hidden_layers": 3}),
)
"""Chosen when the formula was done, which nothing of them has changed."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The plan's memory beside that of real ranks.")
    parser.add_argument("--only", default="", help="only configurations whose name contains this")
    parser.add_argument("--ranks", type=int, default=2, help="only those of so many ranks at the most")
    parser.add_argument("--afterwards", action="store_true", help="those that were chosen when the formula was done")
    given = parser.parse_args()
    chosen = AFTERWARDS if given.afterwards else CASES
    pool, errors = RankPool(), []
    print("| ranks | built MiB | planned | step MiB | planned | error |", "|---" * 6 + "|", sep="\n", flush=True)
    try:
        for case in (case for case in chosen if given.only in case.name and case.ranks <= given.ranks):
            with tempfile.TemporaryDirectory(prefix="rlscale-plan-") as folder:
                taken, planned = measured_and_planned(case, Path(folder), pool)
            errors.append(planned.most / taken.most - 1)
            sizes = (taken.held, planned.held, taken.most, planned.most)
            print(
                f"| {case.name} | {' | '.join(f'{size / 2**20:.1f}' for size in sizes)} | {errors[-1]:+.1%} |",
                flush=True,
            )
    finally:
        pool.close()
    print(f"mean error {mean(map(abs, errors)):.1%}, largest {max(map(abs, errors)):.1%}, {len(errors)} configurations")


if __name__ == "__main__":
    main()
