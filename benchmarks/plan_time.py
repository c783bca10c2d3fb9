"""The plan's time of an iteration beside that of real runs: `python benchmarks/plan_time.py`, minutes on two cores.

The device is this machine's CPU: its rate of products and the speed of its memory are measured first, then each run's
ranges are those of `rlscale plan` with these in place of an H100's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machine import describe_machine, load_average
from run_phases import run

from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.derived.needs import Needs
from rlscale.config.schema import Config
from rlscale.observe import jsonl
from rlscale.plan.iteration_time import IterationTime, Span, Speeds, iteration_time
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout

_CREATE = "model.create.architecture"
ITERATIONS, SKIPPED = 3, 1
QUIET = (
    *("warm_start=null", "eval.enabled=false", "checkpoint.every=0", f"run.iterations={ITERATIONS}"),
    *("run.progress=plain", "rollout.max_prompt_tokens=16", "rollout.groups_per_iteration=4"),
    "rollout.samples_per_group=4",
)


@dataclass(frozen=True)
class Case:
    """A run."""

    name: str
    hidden: int
    layers: int
    tokens: int
    """Of the longest response, which every response has."""
    more: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """What it is composed with."""
        sizes = {
            "hidden_size": self.hidden,
            "intermediate_size": 3 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 128,
            "head_dim": 64,
        }
        lengths = [f"rollout.max_response_tokens={self.tokens}", "rollout.ignore_eos=true"]
        return [*QUIET, *(f"{_CREATE}.{name}={size}" for name, size in sizes.items()), *lengths, *self.more]


CASES = (
    Case("4 layers of 256, 64 tokens", 256, 4, 64),
    Case("8 layers of 512, 64 tokens", 512, 8, 64),
    Case("8 layers of 512, 192 tokens", 512, 8, 192),
    Case("8 layers of 512, recomputed", 512, 8, 64, ("trainer.recompute=full",)),
    Case("8 layers of 768, 64 tokens", 768, 8, 64),
)


def main() -> None:
    """Measure the device, then each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    wanted = parser.parse_args().only
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print("phase: planned, measured (median of the iterations behind the first)")
    for case in CASES:
        if wanted not in case.name:
            continue
        speeds = speeds_here()
        measured = measure(case)
        planned = planned_time(compose(None, case.overrides), speeds)
        print(
            f"{case.name}: {speeds.flops / 1e9:.0f} GFLOP/s, {speeds.memory / 1e9:.1f} GB/s, load {load_average()}",
            flush=True,
        )
        for phase in ("generate", "train", "sync", "whole"):
            span: Span = getattr(planned, phase)
            found = measured[phase]
            print(f"  {phase:9} {span.least:.2f} to {span.most:.2f} s, {found:.2f} s{verdict(span, found)}")


def verdict(span: Span, seconds: float) -> str:
    """How far outside its range a time is."""
    if seconds < span.least:
        return f", {span.least / seconds:.1f} times shorter than the range"
    return f", {seconds / span.most:.1f} times longer than the range" if seconds > span.most else ""


def planned_time(config: Config, speeds: Speeds) -> IterationTime:
    """What the plan says of the run on such a device."""
    known = architecture_of(config.model)
    return iteration_time(config, ModelShape.of(known), RankLayout.of(config), 1e6, Needs.of(config), speeds)


def measure(case: Case) -> dict[str, float]:
    """Median seconds of each phase of an iteration, the first left out."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), [*case.overrides, f"run.output={folder}/run"])
        lines = [line for line in jsonl.read(Path(folder) / "run" / "metrics.jsonl") if "seconds_loop" in line]
    kept = [line for line in lines if line["iteration"] > SKIPPED]
    parts = {
        name: statistics.median(line[f"seconds_{name}"] for line in kept) for name in ("generate", "train", "sync")
    }
    return {**parts, "whole": sum(parts.values())}


def speeds_here() -> Speeds:
    """Of all cores together: products of large matrices in 32 bits, and reading memory far larger than any cache."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    one, other = torch.randn(1536, 1536), torch.randn(1536, 1536)
    large = torch.ones(64 << 20)
    products = 2 * 1536**3 / fastest(lambda: one @ other)
    read = large.numel() * 4 / fastest(large.sum)
    return Speeds(flops=products, memory=read, inside=read / 2, between=read / 2)


def fastest(call: Callable[[], object], tries: int = 7) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
