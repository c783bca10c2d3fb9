"""The contract of a trainer, tried on one rank with a tiny model on the CPU."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.composition.compose import compose
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import TARGET
from rlscale.data.batches.rank_shard import RankShard, split
from rlscale.families.weight_files import tensors_of
from rlscale.platform.device import Platform
from rlscale.platform.ports import free_port
from rlscale.platform.tensor_sum import TensorSum
from rlscale.run.assembly import trainer_spec
from rlscale.run.contracts.made_groups import made_group
from rlscale.run.contracts.methods import check_methods
from rlscale.run.contracts.tiny_model import TINY
from rlscale.run.model_folders import ModelFolders
from rlscale.run.sides.batching import build_batch, divide
from rlscale.trainer.hook_contract.findings import Finding, Report, Status, failed, reported
from rlscale.trainer.hook_contract.recording_receiver import RecordingReceiver
from rlscale.trainer.preparation import prepare
from rlscale.trainer.trainer_protocol import CopiesState, Trainer, can_copy
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.transports.recording import RecordingTransport, read_version
from rlscale.weights.transports.route import Route


def check_trainer(target: type[Any], build: Callable[[TrainerSpec], Trainer]) -> list[Finding]:
    """One finding per check of a trainer: its methods, then a life of two iterations with a checkpoint between them.

    `target` is the class, `build` makes rank 0 of 1.
    """
    copies = can_copy(target)
    findings = check_methods(target, Trainer) + (check_methods(target, CopiesState) if copies else [])
    if failed(findings):
        return findings
    with reported() as report, tempfile.TemporaryDirectory() as folder:
        Platform.of(Device.cpu, 0).install_megatron()
        config = compose(overrides=[*TINY, f"run.scratch={folder}/scratch"])
        spec = trainer_spec(config, ModelFolders.of(config, Path(folder)))
        sent = {TARGET: f"{RecordingTransport.__module__}.RecordingTransport", "folder": f"{folder}/sent"}
        spec = dataclasses.replace(spec, weights=dataclasses.replace(spec.weights, transport=sent))
        trainer = report.call("new", build, spec)
        report.call("start", trainer.start, "127.0.0.1", free_port("127.0.0.1"))
        try:
            _live(report, trainer, _shard(config), Path(folder))
        finally:
            report.call("close", trainer.close)
    return [*findings, *report.findings]


def _live(report: Report, trainer: Trainer, shard: RankShard, folder: Path) -> None:
    place = report.call("data_parallel_rank", trainer.data_parallel_rank)
    report.add("data_parallel_rank", "0 for the only rank", place == 0, f"{place}")
    _train(report, trainer, shard, version=0)
    report.call("sleep", trainer.sleep)
    report.call("wake", trainer.wake)
    saved = _logprobs(report, trainer, shard)
    copied = _copied(report, trainer)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    report.call("begin_save", trainer.begin_save, checkpoint, False)
    report.call("finish_save", trainer.finish_save)
    report.add("saved", "true after finish_save", trainer.saved(), f"{trainer.saved()}")
    report.call("damaged", trainer.damaged, checkpoint, {})
    _train(report, trainer, shard, version=1)
    went_on = _logprobs(report, trainer, shard)
    report.call("load", trainer.load, checkpoint, False)
    report.same("resume", "log-probs as they were saved", _logprobs(report, trainer, shard), saved, "after load")
    _train(report, trainer, shard, version=1)
    again = _logprobs(report, trainer, shard)
    report.same("recover", "the same steps lead to the same log-probs again", again, went_on, "steps after load")
    if copied is not None and can_copy(trainer):
        report.call("put_state", trainer.put_state, *copied)
        _train(report, trainer, shard, version=1)
        again = _logprobs(report, trainer, shard)
        report.same("copy", "the same steps after a copy of the state, too", again, went_on, "steps after put_state")
    report.call("connect_engines", trainer.connect_engines, Route(timeout_s=30.0), [RecordingReceiver("http://engine")])
    _numbers(report, "send_weights", report.call("send_weights", trainer.send_weights, 1))
    report.call("export", trainer.export, folder / "hf")
    written = sorted(path.name for path in (folder / "hf").glob("*"))
    report.add("export", "a Hugging Face folder", "config.json" in written, ", ".join(written) or "nothing")
    report.stop_if_failed("export")
    _same_weights(report, folder)


def _copied(report: Report, trainer: Trainer) -> tuple[bytes, Any] | None:
    """A copy of the trainer's state; None of one that cannot make it, which a run goes without."""
    if not can_copy(trainer):
        expected, text = "state_key, copy_state and put_state", "not all are there; lost ranks begin with a checkpoint"
        report.add("copy", expected, False, text, otherwise=Status.warned)
        return None
    key = report.call("state_key", trainer.state_key)
    report.add("state_key", "the same each time", key == trainer.state_key(), f"{key}")
    copy: tuple[bytes, Any] = report.call("copy_state", trainer.copy_state, (0, 1))
    return copy


def _same_weights(report: Report, folder: Path) -> None:
    """Engines are given what is exported: every tensor, bit by bit."""
    expected = "every tensor of the export, bit by bit, through the transport of its spec"
    if not (folder / "sent").is_dir():
        text = "the transport was not used; whether engines get the weights is not known"
        report.add("weights sent", expected, False, text, otherwise=Status.warned)
        return
    sent = read_version(folder / "sent", 1)
    exported = {name: TensorSum.of_entry(entry) for name, entry in tensors_of(folder / "hf").items()}
    differ = sorted(name for name in {*sent, *exported} if sent.get(name) != exported.get(name))
    text = f"{len(sent)} tensors"
    report.add("weights sent", expected, not differ, f"{len(differ)} differ, first {differ[0]}" if differ else text)


def _train(report: Report, trainer: Trainer, shard: RankShard, version: int) -> None:
    metrics = report.call("train_shard", trainer.train_shard, shard, version, False, True)
    _numbers(report, "train", metrics)
    report.add("steps", "`steps` among the metrics", "steps" in metrics, ", ".join(sorted(metrics)[:5]))


def _logprobs(report: Report, trainer: Trainer, shard: RankShard) -> NDArray[np.float32]:
    column: Any = report.call("logprobs", trainer.logprobs, shard)
    right = isinstance(column, np.ndarray) and column.dtype == np.float32
    right = right and column.shape == (shard.batch.tokens_total,)
    shown = f"{column.dtype} {list(column.shape)}" if isinstance(column, np.ndarray) else f"{column!r}"
    report.add("logprobs", f"float32 [{shard.batch.tokens_total}] from the only rank", right, shown)
    report.stop_if_failed("logprobs")
    below = bool(np.all((column <= 0) & np.isfinite(column)))
    report.add("log of a probability", "at most 0, and finite", below, f"the largest is {np.max(column):.3g}")
    found: NDArray[np.float32] = column
    return found


def _numbers(report: Report, check: str, metrics: Any) -> None:
    right = isinstance(metrics, dict) and all(isinstance(value, float) for value in metrics.values())
    report.add(f"{check} metrics", "a dict of floats by name", right, f"{type(metrics).__name__}")
    report.stop_if_failed(f"{check} metrics")


def _shard(config: Config) -> RankShard:
    """What the only rank trains on: four groups of two samples, with advantages."""
    groups = [made_group(index, 0, (0.0, 1.0)) for index in range(config.rollout.groups_per_iteration)]
    batch = build_batch(groups, config).with_column("version", 0)
    _, plan = divide(batch, config)
    batch, _ = prepare(batch, config.algo, max_response_tokens=config.rollout.max_response_tokens)
    return split(batch, plan)[0]
