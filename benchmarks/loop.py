"""How fast the trainer, the loop and the weight sync are: `python benchmarks/loop.py`, some minutes on two cores.

Three comparisons, all with one model of about 5M parameters in fp32: the trainer with a plain Hugging Face model, the
parts of an iteration with its wall time, weight sync with a copy in memory. `--quick` measures less often. Everything
is written into a temporary folder. docs/benchmarks.md holds a measured table.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table
from run_phases import PHASES, SKIPPED, RunPhases, measure_copy, measure_run
from trainer_speed import Speed, measure_trainer

from rlscale.config.composition.compose import compose

MODEL = (
    "model.create.architecture.hidden_size=256",
    "model.create.architecture.intermediate_size=832",
    "model.create.architecture.num_hidden_layers=6",
    "model.create.architecture.num_attention_heads=8",
    "model.create.architecture.num_key_value_heads=4",
    "warm_start=null",
)
RUN = (
    "rollout.groups_per_iteration=64",
    "rollout.samples_per_group=8",
    "cluster.placement=colocated",
    "eval.enabled=false",
    "checkpoint.every=0",
    "checkpoint.resume=never",
    "run.progress=plain",
)
RATIO_AIM, OTHER_AIM = 0.95, 0.10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of trainer, loop and weight sync.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and iterations")
    parser.add_argument("--trainer", action="store_true", help="the trainer's comparison alone")
    options = parser.parse_args()
    quick = options.quick
    signal.signal(signal.SIGTERM, _stop)
    console = Console(width=118, highlight=False)
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="rlscale-benchmark-") as name:
        folder = Path(name)
        spec, vocabulary, parameters = prepare_trainer(folder)
        console.print(f"model: {parameters / 1e6:.2f}M parameters, fp32; {date.today()}")
        speeds = measure_trainer(spec, vocabulary, repeats=3 if quick else 5)
        tables = [_trainer_table(speeds)]
        if not options.trainer:
            phases = measure_run(folder, [*MODEL, *RUN, f"run.iterations={4 if quick else 8}"])
            tables += [_phase_table(phases), _sync_table(phases, measure_copy(int(phases.sync_bytes)))]
    for table in (_machine_table(before, load_average()), *tables):
        console.print()
        console.print(table)


def prepare_trainer(folder: Path) -> tuple[Any, int, int]:
    """The trainer's spec on a newly made model, the size of its vocabulary, and its parameters."""
    from safetensors import safe_open

    from rlscale.run.assembly import trainer_spec
    from rlscale.run.model_folders import ModelFolders

    config = compose(overrides=[*MODEL, "optim.lr=1e-6", f"run.scratch={folder / '.rlscale'}"])
    folders = ModelFolders.of(config)
    model = folders.policy
    parameters = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "np") as tensors:
            parameters += sum(tensors.get_tensor(name).size for name in tensors.keys())  # noqa: SIM118 - no dict
    vocabulary = int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    return trainer_spec(config, folders), vocabulary, parameters


def _table(*columns: str) -> Table:
    """A table in Markdown: first column text, the others numbers."""
    table = Table(box=box.MARKDOWN)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _machine_table(before: str, after: str) -> Table:
    table = Table("machine", "", box=box.MARKDOWN)
    for name, value in describe_machine().items():
        table.add_row(name, value)
    table.add_row("load average at start, at end", f"{before}, {after}")
    return table


def _trainer_table(speeds: list[Speed]) -> Table:
    """Tokens per second; ratios are to the faster of the plain sides."""
    table = _table("one step, one thread", "tokens", "rlscale tok/s", "plain HF", "as a rank", "ratio", "CPU", "aim")
    for speed in speeds:
        sides = (speed.rlscale, speed.plain, speed.plain_as_rank)
        ratios = (f"{speed.ratio:.2f}", f"{speed.cpu_ratio:.2f}", f">= {RATIO_AIM}")
        table.add_row(speed.shape, str(speed.tokens), *(f"{speed.tokens / side.wall:.0f}" for side in sides), *ratios)
    return table


def _phase_table(phases: RunPhases) -> Table:
    title = f"one iteration, mean of {phases.iterations} after {SKIPPED}, {phases.batch_tokens:.0f} tokens"
    table = _table(title, "seconds", "share", "aim")
    for phase in PHASES:
        aim = f"<= {OTHER_AIM:.0%}" if phase == "other" else ""
        table.add_row(phase, f"{phases.seconds[phase]:.3f}", f"{phases.share(phase):.1%}", aim)
    table.add_row("all", f"{phases.total:.3f}", "100.0%", "")
    return table


def _sync_table(phases: RunPhases, copy: float) -> Table:
    table = _table(f"weight sync, {phases.sync_bytes / 1e6:.1f} MB", "MB/s", "of a copy")
    rates = {
        "the whole sync phase": phases.phase_rate,
        "sending and loading alone": phases.transfer_rate,
        "plain copy in memory": copy,
    }
    for name, rate in rates.items():
        table.add_row(name, f"{rate / 1e6:.0f}", f"{rate / copy:.1%}")
    return table


def _stop(*_: object) -> NoReturn:
    """SIGTERM like Ctrl-C: everything that was started is ended on the way out."""
    sys.exit(143)


if __name__ == "__main__":
    main()
