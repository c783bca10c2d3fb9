"""The plan's memory beside what trainer ranks take: `python benchmarks/plan_memory.py`, two minutes on two cores.

Each line is one or more real ranks on the CPU that make one step; the fullest rank counts. The plan's other validation,
against what others published of GPUs, is in tests/unit/plan.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from token_rows import TokenRows, grpo_batch

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.data.batches.batch import Batch
from rlscale.families.config_file import complete, read_config
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout
from rlscale.plan.trainer_memory import Training, rank_memory, stages

TESTS = Path(__file__).parents[1] / "tests" / "dist"
ROW = 256
"""Tokens of a row."""
WIDE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class Case:
    """A model in a layout."""

    name: str
    kind: str = "dense"
    sizes: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    tokens: int = 2048
    microbatches: int = 2
    recompute: Recompute = Recompute.none
    sharded: bool = False
    dtype: DType = DType.float32

    @property
    def ranks(self) -> int:
        """Trainer ranks."""
        return prod(self.parallel.get(name, 1) for name in ("tensor", "pipeline", "context", "data"))


CASES = (
    Case("4 layers of 256, 2048 tokens"),
    Case("1024 tokens", tokens=1024),
    Case("4096 tokens", tokens=4096, microbatches=1),
    Case("8 layers of 384", sizes={"num_hidden_layers": 8, "hidden_size": 384, "intermediate_size": 1024}),
    Case("vocabulary 32768", sizes={"vocab_size": 32768}),
    Case("tied, recompute full", kind="tied", recompute=Recompute.full),
    Case("recompute full, 4096 tokens", recompute=Recompute.full, tokens=4096, microbatches=1),
    Case("bfloat16", dtype=DType.bfloat16),
    Case("experts", kind="moe"),
    Case("TP 2 with sequence", parallel={"tensor": 2, "sequence": True}),
    Case("TP 2", parallel={"tensor": 2}),
    Case("PP 2", parallel={"pipeline": 2}, microbatches=4),
    Case("CP 2", parallel={"context": 2}),
    Case("DP 2, sharded optimizer", parallel={"data": 2}, sharded=True),
    Case("DP 2, sharded, bfloat16", parallel={"data": 2}, sharded=True, dtype=DType.bfloat16),
    Case("experts, EP 2", kind="moe", parallel={"data": 2, "expert": 2}),
)


def main() -> None:
    """Measure and print."""
    sys.path.insert(0, str(TESTS))  # the ranks import its modules by their names
    from rank_pool import RankPool

    parser = argparse.ArgumentParser(description="The plan's memory beside that of real ranks.")
    parser.add_argument("--only", default="", help="only configurations whose name contains this")
    parser.add_argument("--ranks", type=int, default=2, help="only those of so many ranks at the most")
    given = parser.parse_args()
    pool, errors = RankPool(), []
    print("| ranks | built MiB | planned | step MiB | planned | error |", "|---" * 6 + "|", sep="\n", flush=True)
    try:
        for case in (case for case in CASES if given.only in case.name and case.ranks <= given.ranks):
            with tempfile.TemporaryDirectory(prefix="rlscale-plan-") as folder:
                held, peak, (static, planned) = _both(case, Path(folder), pool)
            errors.append(planned / peak - 1)
            megabytes = " | ".join(f"{size / 2**20:.1f}" for size in (held, static, peak, planned))
            print(f"| {case.name} | {megabytes} | {errors[-1]:+.1%} |", flush=True)
    finally:
        pool.close()
    print(f"mean error {mean(map(abs, errors)):.1%}, largest {max(map(abs, errors)):.1%}, {len(errors)} configurations")


def _both(case: Case, folder: Path, pool: Any) -> tuple[int, int, tuple[float, float]]:
    """(held when built, most in the step, the plan of both), of the fullest rank."""
    from rank_peaks import peak_of_rank
    from tiny_models import make_model
    from training_data import make_spec

    from rlscale.data.batches.packing import plan
    from rlscale.data.batches.rank_shard import split

    make_model(folder, case.kind, **{**WIDE, **case.sizes})
    trainer = TrainerConfig(
        max_tokens_per_microbatch=case.tokens, recompute=case.recompute, distributed_optimizer=case.sharded
    )
    spec = make_spec(folder, parallel=case.parallel, trainer=trainer, dtype=case.dtype)
    shape = ModelShape.of(complete(read_config(folder)))
    rows = case.microbatches * case.tokens // ROW * spec.data_parallel
    batch = _batch(TokenRows.random(rows, ROW, ROW, shape.vocabulary), spec)
    shards = split(batch, plan(batch.lengths, batch.column("step"), spec.data_parallel, case.tokens))
    parallel = spec.parallel
    model_ranks = parallel.tensor * parallel.pipeline * parallel.context
    found = pool.run(peak_of_rank, spec, shards, world_size=model_ranks * spec.data_parallel)
    layout = RankLayout(
        parallel.tensor,
        parallel.sequence,
        parallel.pipeline,
        context=parallel.context,
        expert=parallel.expert,
        data=spec.data_parallel,
    )
    training = Training(
        case.tokens,
        case.recompute,
        4 if case.dtype is DType.float32 else 2,
        case.sharded,
        entropy=True,
        microbatches=case.microbatches,
        on_gpu=False,
    )
    ranks = [rank_memory(shape, layout, training, stage) for stage in stages(layout)]
    static = max(rank.weights + rank.gradients + rank.optimizer for rank in ranks)
    return (
        max(held for held, _ in found),
        max(peak for _, peak in found),
        (static, max(rank.total for rank in ranks)),
    )


def _batch(rows: TokenRows, spec: Any) -> Batch:
    """Samples all of whose tokens but the first are trained."""
    trained = np.arange(len(rows.tokens)) != np.repeat(rows.offsets[:-1], rows.lengths)
    return grpo_batch(rows, trained, spec, ROW)


if __name__ == "__main__":
    main()
