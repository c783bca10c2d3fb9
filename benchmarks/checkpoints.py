"""What saving costs the loop, and what conversions cost in memory, for a model of about 100 million parameters.

    python benchmarks/checkpoints.py [--layers N]

Everything runs in processes of its own with one thread. "Stall": seconds between two steps that a save takes away.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, load_average

from rlscale.data.batches.rank_shard import RankShard
from rlscale.platform.ports import free_port
from rlscale.trainer.trainer_spec import Form, TrainerSpec

_STEPS = 6
_DEADLINE_S = 1800.0


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the model")
    layers = parser.parse_args().layers
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        model = _in_process(_make_model, folder / "model", layers)
        print(f"{model['parameters'] / 1e6:.0f}M parameters in float32, weights of {model['bytes'] / 1e6:.0f} MB")
        before = load_average()
        saving = _in_process(_measure_saving, folder)
        print("\n| saving | asynchronous | in the loop |")
        print("|---|---|---|")
        for name, asynchronous, waiting in saving["rows"]:
            print(f"| {name} | {asynchronous} | {waiting} |")
        _print_memory(folder, model["bytes"])
        print(f"\n{describe_machine()}, load {before} before and {load_average()} after")


def _print_memory(folder: Path, size: int) -> None:
    print("\n| conversion | seconds | peak memory / weights | above one copy of the weights |")
    print("|---|---|---|---|")
    checkpoint = folder / "checkpoint"
    for name, source, target, form in (
        ("Hugging Face -> checkpoint", folder / "model", checkpoint, Form.checkpoint),
        ("checkpoint -> Hugging Face", checkpoint, folder / "exported", Form.hugging_face),
    ):
        got = _in_process(_measure_conversion, folder / "model", source, target, form)
        above = (got["peak"] - size) / 1e6
        print(f"| {name} | {got['seconds']:.1f} | {got['peak'] / size:.2f} | {above:.0f} MB |")


# ---- in processes of their own ------------------------------------------------------------------------------------


def _make_model(folder: Path, layers: int) -> dict[str, int]:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    sizes: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "head_dim": 64}
    config = Qwen3Config(vocab_size=16_384, num_hidden_layers=layers, num_key_value_heads=4, dtype="float32", **sizes)
    family: Any = AutoModelForCausalLM
    model = family.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(parameter.nbytes for parameter in model.parameters()),
    }


def _measure_saving(folder: Path) -> dict[str, Any]:
    """The same trainer saves both ways; steps before, beside and after the writing of the copy are timed."""
    spec = _spec(folder / "model")
    trainer, part = _trainer(spec), _part(spec)

    def step() -> float:
        return _seconds(lambda: trainer.train_shard(part, 0))

    step()
    alone = statistics.median(step() for _ in range(_STEPS))
    synchronous = _seconds(lambda: trainer.save(folder / "synchronous"))
    copied = _seconds(lambda: trainer.begin_save(folder / "asynchronous"))
    beside = []
    while not trainer.saved():
        beside.append(step())
    written = len(beside)
    closed = _seconds(trainer.finish_save)
    size = sum(file.stat().st_size for file in (folder / "asynchronous").iterdir())
    return {
        "rows": [
            ("size of the checkpoint", f"{size / 1e6:.0f} MB", f"{size / 1e6:.0f} MB"),
            ("stall at the save", f"{copied:.2f} s", f"{synchronous:.2f} s"),
            ("stall when it becomes whole", f"{closed:.3f} s", "-"),
            ("a step alone", f"{alone:.2f} s", f"{alone:.2f} s"),
            (f"a step beside the writing ({written} of them)", f"{statistics.mean(beside or [0.0]):.2f} s", "-"),
        ]
    }


def _measure_conversion(model: Path, source: Path, target: Path, form: Form) -> dict[str, float]:
    """Peak of the process's own memory above what it began with; without mapped files, which the system can drop."""
    from dataclasses import replace

    from rlscale.platform.device import Platform

    spec = replace(_spec(model), init_path=str(source))
    Platform.of(spec.device).install_megatron()
    from rlscale.trainer.megatron.disk.conversion import convert

    peak, over = [_own_memory()], threading.Event()
    base = peak[0]

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = _seconds(lambda: convert(spec, (0, 1, 0), ("127.0.0.1", free_port("127.0.0.1")), target, form))
    over.set()
    watcher.join()
    return {"seconds": seconds, "peak": peak[0] - base}


# ---- pieces -------------------------------------------------------------------------------------------------------


def _spec(model: Path) -> TrainerSpec:
    from dataclasses import replace

    from rlscale.config.composition.compose import compose
    from rlscale.run.assembly import trainer_spec
    from rlscale.run.model_folders import ModelFolders

    config = compose(None, [])
    spec = trainer_spec(config, ModelFolders(model))
    return replace(spec, init_path=str(model), data_parallel=1)


def _trainer(spec: TrainerSpec) -> Any:
    from rlscale.platform.device import Platform

    Platform.of(spec.device).install_megatron()
    from rlscale.trainer.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(spec, 0, 1)
    trainer.start("127.0.0.1", free_port("127.0.0.1"))
    return trainer


def _part(spec: TrainerSpec) -> RankShard:
    """Eight rows of 32 tokens, all of them trained with equal weight."""
    from rlscale.data.batches.batch import Batch

    tokens = np.random.default_rng(0).integers(0, 16_384, 256)
    batch = Batch(np.arange(0, 257, 32))
    columns = {
        "tokens": tokens,
        "loss_mask": np.arange(256) % 32 > 0,
        "rollout_logprobs": np.where(np.arange(256) % 32 > 0, -9.7, 0.0),
        "versions": np.zeros(256),
        "advantages": np.random.default_rng(1).normal(size=256),
        "loss_weight": np.full(256, 1 / 256),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return RankShard(batch, [[np.arange(8)]], np.arange(8))


def _seconds(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _own_memory() -> int:
    """Bytes of this process that no file stands behind."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_DEADLINE_S):
            raise TimeoutError(f"{function.__name__} took more than {_DEADLINE_S:.0f} s")
        return json.loads(ours.recv())
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Megatron names at every start what is not installed
    pipe.send(json.dumps(function(*arguments)))


if __name__ == "__main__":
    main()
