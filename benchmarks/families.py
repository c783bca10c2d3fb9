"""A user's run of every model family: `python benchmarks/families.py`, about a minute each on two cores.

A tiny random model of the family is written as a folder, which `model.path=` of the arithmetic recipe trains for three
iterations: Megatron-core trains, SGLang generates, the canary compares both after every sync, and a mixture of experts
replays what the engine chose.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from run_phases import run

from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.families import FAMILIES
from rlscale.observe import jsonl

CONFIGS = Path(__file__).parents[1] / "tests" / "fixtures" / "families"
ITERATIONS = 3
OPTIONS = (
    "model.create=null",
    "warm_start=null",
    f"run.iterations={ITERATIONS}",
    "run.progress=plain",
    "rollout.groups_per_iteration=4",
    "rollout.samples_per_group=4",
    "rollout.sglang.max_running_requests=16",
    "weights.verify_every=1",
    "eval.enabled=false",
    "checkpoint.every=0",
    "checkpoint.resume=never",
)
CHARACTERS = "0123456789+-*=? "


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="A run of three iterations of each model family.")
    parser.add_argument("family", nargs="*", choices=[[], *FAMILIES], help="all of them where none is given")
    families = parser.parse_args().family or list(FAMILIES)
    table = Table("family", "canary, largest", "engine and trainer, largest", "replayed", title="float32, one rank")
    with tempfile.TemporaryDirectory(prefix="rlscale-families-") as name:
        for family in families:
            table.add_row(family, *measure(family, Path(name) / family))
    Console(width=118, highlight=False).print(table)


def measure(family: str, folder: Path) -> tuple[str, str, str]:
    """Largest differences of log-prob on the canary and on the samples, and the share of choices replayed."""
    folder.mkdir()
    config: dict[str, Any] = json.loads((CONFIGS / f"{family}.json").read_text(encoding="utf-8"))
    architecture = {key: value for key, value in config.items() if key not in ("architectures", "vocab_size")}
    create = CreateModelConfig({**architecture, "initializer_range": 0.2}, CHARACTERS, 0)
    model = ensure_model_folder(ModelConfig(name=family, create=create), folder)
    replay = ["trainer.routing_replay=rollout"] if FAMILIES[family].experts else []
    output = folder / "run"
    run(folder, [*OPTIONS, *replay, f"model.name={family}", f"model.path={model}", f"run.output={output}"])
    lines = jsonl.read(output / "metrics.jsonl")
    if max(line["iteration"] for line in lines) != ITERATIONS:
        raise RuntimeError(f"{family}: not every iteration is in the metrics")
    return _largest(lines, "canary_diff"), _largest(lines, "logprob_diff_max"), _largest(lines, "routing_replayed")


def _largest(lines: list[dict[str, Any]], name: str) -> str:
    values = [line[name] for line in lines if name in line]
    return f"{max(values):.2g}" if values else ""


if __name__ == "__main__":
    main()
