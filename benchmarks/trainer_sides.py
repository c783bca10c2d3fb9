"""What is compared: rlscale's trainer and a plain Hugging Face model, each made to train on the same token rows.

A side runs in a process of its own with one thread, takes rows from a pipe and answers with the time of one step.
torch is imported inside the functions: importing this module must cost the other side nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from token_rows import TokenRows, grpo_batch

from rlscale.data.batches.batch import Batch
from rlscale.platform.ports import free_port
from rlscale.trainer.trainer_spec import TrainerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from rlscale.trainer.megatron.trainer import MegatronTrainer


@dataclass(frozen=True)
class Seconds:
    """What one step took."""

    wall: float
    """By the clock; other processes on the same cores make it longer."""
    cpu: float
    """Computing time of the process."""


Prepare = Callable[[TokenRows], Callable[[], None]]
"""Prepares rows (not measured) and returns what makes one optimizer step on them (measured)."""


def serve_rlscale(pipe: Connection, spec: TrainerSpec) -> None:
    """One rank of the trainer: packed rows, GRPO's loss with its metrics, Megatron's optimizer."""
    _serve(pipe, lambda: rlscale_step(spec))


def serve_hugging_face(pipe: Connection, spec: TrainerSpec) -> None:
    """The same model by transformers: padded rows, its own cross-entropy loss, torch's AdamW."""
    _serve(pipe, lambda: _hugging_face_step(spec))


def _serve(pipe: Connection, build: Callable[[], Prepare]) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Megatron names at every start what is not installed
    try:
        prepare = build()
        pipe.send(None)
        while True:
            pipe.send(_timed(prepare(pipe.recv())))
    except EOFError:
        return


def _timed(step: Callable[[], None]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def start_trainer(spec: TrainerSpec) -> MegatronTrainer:
    """One rank in this process, with Megatron and gloo started."""
    from rlscale.platform.device import Platform

    Platform.of(spec.device).install_megatron()
    from rlscale.trainer.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(spec, rank=0, world_size=1)
    trainer.start("127.0.0.1", free_port("127.0.0.1"))
    return trainer


def rlscale_step(spec: TrainerSpec) -> Prepare:
    """The steps of one rank in this process."""
    return steps_of(start_trainer(spec), spec)


def steps_of(trainer: MegatronTrainer, spec: TrainerSpec) -> Prepare:
    """What prepares a step of a rank."""
    from rlscale.data.batches.packing import plan
    from rlscale.data.batches.rank_shard import split

    def prepare(rows: TokenRows) -> Callable[[], None]:
        batch = _grpo_batch(rows, spec)

        def step() -> None:
            cap = spec.trainer.max_tokens_per_microbatch
            (part,) = split(batch, plan(batch.lengths, batch.column("step"), 1, cap))
            trainer.train_shard(part, 0)

        return step

    return prepare


def _grpo_batch(rows: TokenRows, spec: TrainerSpec) -> Batch:
    """The rows as samples; the first half of each is its prompt."""
    place = np.arange(len(rows.tokens)) - np.repeat(rows.offsets[:-1], rows.lengths)
    trained = place >= np.repeat(np.maximum(rows.lengths // 2, 1), rows.lengths)
    return grpo_batch(rows, trained, spec, int(rows.lengths.max()))


def _hugging_face_step(spec: TrainerSpec) -> Prepare:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(spec.model_path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.optim.lr, weight_decay=spec.optim.weight_decay)

    def step(rows: TokenRows) -> None:
        optimizer.zero_grad()
        for few in _padded_chunks(rows.lengths, spec.trainer.max_tokens_per_microbatch):
            ids, mask = _pad(rows, few)
            labels = ids.masked_fill(~mask, -100)
            padding = None if bool(mask.all()) else mask.long()
            loss = model(input_ids=ids, attention_mask=padding, labels=labels, use_cache=False).loss
            (loss * (len(few) / len(rows.lengths))).backward()
        optimizer.step()

    return lambda rows: lambda: step(rows)


def _padded_chunks(lengths: NDArray[np.int64], cap: int) -> list[NDArray[np.int64]]:
    """Rows in their order, in chunks of at most `cap` tokens with padding."""
    fit = max(cap // int(lengths.max()), 1)
    return [np.arange(start, min(start + fit, len(lengths))) for start in range(0, len(lengths), fit)]


def _pad(rows: TokenRows, few: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Two tensors [rows, longest row]: token ids, and True where there is a token."""
    import torch

    width = int(rows.lengths[few].max())
    ids, mask = np.zeros((len(few), width), np.int64), np.zeros((len(few), width), bool)
    for line, row in enumerate(few):
        own = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]]
        ids[line, : len(own)], mask[line, : len(own)] = own, True
    return torch.from_numpy(ids), torch.from_numpy(mask)
