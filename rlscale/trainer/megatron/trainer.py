"""One rank of the trainer: holds the policy, makes steps, hands out log-probs and weights, saves and loads.

Every method is collective: all ranks call it with the same arguments (parts: each data-parallel rank its own).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rlscale.data.part import Part
from rlscale.platform.device import Platform
from rlscale.trainer.megatron import parallel, passes
from rlscale.trainer.megatron.checkpoint import load_checkpoint, save_checkpoint
from rlscale.trainer.megatron.export import export_folder
from rlscale.trainer.megatron.microbatch import MicroBatch, build_steps
from rlscale.trainer.megatron.model import build_model
from rlscale.trainer.megatron.offload import Offload
from rlscale.trainer.megatron.optimizer import Optimizer, StepResult, build_optimizer
from rlscale.trainer.megatron.reference import FrozenWeights
from rlscale.trainer.megatron.step_metrics import IterationMetrics
from rlscale.trainer.objective import Objective
from rlscale.trainer.spec import TrainerSpec
from rlscale.weights.source import MegatronWeights
from rlscale.weights.transport import Receiver, Transport, build_transport

_LOG = logging.getLogger(__name__)


class MegatronTrainer:
    """A trainer rank. `start` before anything else."""

    def __init__(self, spec: TrainerSpec, rank: int, world_size: int, local_rank: int = 0) -> None:
        """`local_rank` counts the ranks of one machine and picks the GPU."""
        self._spec, self._rank, self._world_size = spec, rank, world_size
        self._platform = Platform.of(spec.device, local_rank)
        self._objective = Objective.of(spec.algo)
        self._transport: Transport | None = None

    def start(self, address: str, port: int) -> None:
        """Meet the other ranks at rank 0's address:port, build model and optimizer. UserError for what cannot be."""
        spec = self._spec
        if spec.trainer.deterministic and self._platform.is_cuda:
            torch.use_deterministic_algorithms(True, warn_only=True)
        self._ranks = parallel.join(spec, self._platform, self._rank, self._world_size, address, port)
        self._model = build_model(spec, self._platform)
        self._optimizer: Optimizer = build_optimizer(self._model, spec)
        passes.configure_schedule(self._model, self._optimizer.megatron.scale_loss)
        self._reference = FrozenWeights(self._model) if self._objective.needs_reference else None
        self._offload = Offload(self._model, self._optimizer)
        self._model.train()

    @property
    def steps(self) -> int:
        """Optimizer steps taken so far, skipped ones included."""
        return self._optimizer.steps

    def data_parallel_rank(self) -> int:
        """Which part of a batch this rank computes."""
        return self._ranks.data_rank

    # -- passes -------------------------------------------------------------------------------------------------------

    def train(self, part: Part, version: int, force_old: bool = False) -> dict[str, float]:
        """All optimizer steps and epochs of one iteration on this rank's part; the same metrics on every rank.

        The part has the columns `loss_weight` and, unless supervised, `advantages`. The columns `old_logprobs` and
        `ref_logprobs` are computed first where the objective needs them and the part does not bring them; `force_old`
        asks for the former in any case. `version` is the trainer's weight version.
        """
        began = time.perf_counter()
        steps = self._steps(part)
        everything = [microbatch for step in steps for microbatch in step]
        if (force_old or self._objective.needs_old) and "old_logprobs" not in part.batch:
            self._compute(everything, "old_logprobs", "policy")
        if self._objective.needs_reference and "ref_logprobs" not in part.batch:
            self._compute(everything, "ref_logprobs", "reference")
        metrics = IterationMetrics(self._ranks, self._platform.device)
        for _ in range(self._spec.algo.epochs_per_iteration):
            for step in steps:
                self._step(step, version, metrics)
        reduced = metrics.reduce()
        return reduced | self._counts(part, everything, time.perf_counter() - began)

    def logprobs(
        self, part: Part, model: str = "policy", temperature: float | None = None
    ) -> NDArray[np.float32] | None:
        """Log-probs of a part's tokens, float32 in the order of its batch's rows; 0 for each row's first token.

        `model` is policy or reference; `temperature` is the sampling temperature unless given. Only one rank of each
        data-parallel part returns them, the others None.
        """
        microbatches = [microbatch for step in self._steps(part) for microbatch in step]
        with self._weights_of(model):
            values = passes.forward_logprobs(
                self._model, self._ranks, microbatches, self._spec.temperature if temperature is None else temperature
            )
        if values is None:
            return None
        column = np.zeros(part.batch.tokens_total, np.float32)
        for microbatch, value in zip(microbatches, values, strict=True):
            own = np.concatenate([_tokens_of(part, row) for row in microbatch.rows] or [np.zeros(0, np.int64)])
            column[own] = microbatch.column(value)
        if self._ranks.context_group.size() > 1:
            together = torch.from_numpy(column).to(self._platform.device)
            dist.all_reduce(together, group=self._ranks.context_group)
            column = together.cpu().numpy()
        return column if self._ranks.outputs else None

    def _step(self, microbatches: Sequence[MicroBatch], version: int, metrics: IterationMetrics) -> None:
        self._optimizer.zero_grad(self._model)
        shares = passes.forward_backward(
            self._model, self._ranks, microbatches, self._objective, self._spec.temperature, version
        )
        result: StepResult = self._optimizer.step()
        if result.skipped:
            _LOG.warning("step %d skipped: the gradient norm is %s", self.steps, result.grad_norm)
        metrics.add(shares, result)

    def _compute(self, microbatches: Sequence[MicroBatch], name: str, model: str) -> None:
        """Add a column of log-probs to micro-batches, on the ranks that hold the logits."""
        with self._weights_of(model):
            values = passes.forward_logprobs(self._model, self._ranks, microbatches, self._spec.temperature)
        for microbatch, value in zip(microbatches, values or [], strict=False):
            microbatch.computed[name] = value

    @contextmanager
    def _weights_of(self, model: str) -> Iterator[None]:
        if model not in ("policy", "reference"):
            raise ValueError(f"there is no model {model!r}, only policy and reference")
        if model == "reference" and self._reference is None:
            raise ValueError("this trainer keeps no reference: its algorithm does not need one")
        frozen = self._reference if model == "reference" else None
        with frozen.in_place() if frozen is not None else nullcontext():
            yield

    def _steps(self, part: Part) -> list[list[MicroBatch]]:
        stages = self._spec.parallel.pipeline
        interleaved = stages > 1 and self._spec.parallel.virtual_pipeline is not None
        return build_steps(
            part,
            self._ranks.slicing,
            self._platform.device,
            attend=self._model.own_attention,
            multiple=stages if interleaved else 1,
        )

    def _counts(self, part: Part, microbatches: Sequence[MicroBatch], seconds: float) -> dict[str, float]:
        """Sizes and speed of an iteration over all data-parallel ranks."""
        own = [float(part.batch.tokens_total), float(part.batch.rows)]
        totals = torch.tensor(own, dtype=torch.float64, device=self._platform.device)
        dist.all_reduce(totals, group=self._ranks.data_context_group)
        tokens, rows = (totals / self._ranks.slicing.context_size).tolist()
        return {
            "trained_tokens": tokens * self._spec.algo.epochs_per_iteration,
            "trained_rows": rows,
            "microbatches": float(len(microbatches) * self._spec.algo.epochs_per_iteration),
            "train_seconds": seconds,
            "train_tokens_per_s": tokens * self._spec.algo.epochs_per_iteration / seconds,
            "memory_peak_gb": self._platform.memory_peak_bytes() / 1e9,
        }

    # -- weights ------------------------------------------------------------------------------------------------------

    def weights(self) -> MegatronWeights:
        """The policy's weights as they are, in Hugging Face's form."""
        self._model.finish_gathering()
        model, bucket = self._model, self._spec.weights.bucket_mb * 2**20
        return MegatronWeights(model.bare, model.weights, model.groups, bucket)

    def connect(
        self,
        kind: str,
        receivers: Sequence[Receiver],
        ranks_per_receiver: int = 1,
        first_ranks: Sequence[int] | None = None,
    ) -> None:
        """Say who gets the weights, and how: `tensor` or `broadcast`. TransferError when they cannot be reached.

        `ranks_per_receiver`: tensor-parallel ranks of an engine. `first_ranks`: for each engine the first of the
        trainer ranks on its GPUs, where they share them; by default the engines follow one another from rank 0.
        """
        if self._transport is not None:
            self._transport.close()
        timeout = self._spec.weights.timeout_s
        self._transport = build_transport(kind, self._platform.device.type, timeout, ranks_per_receiver, first_ranks)
        self._transport.connect(receivers)

    def sync(self, version: int) -> dict[str, float]:
        """Send the weights to the engines as `version`; bytes and seconds of it. TransferError if one did not load."""
        if self._transport is None:
            raise ValueError("sync before connect: nobody to send the weights to")
        began, size = time.perf_counter(), 0
        for bucket in self.weights().buckets(version):
            self._transport.send(bucket)
            size += bucket.nbytes
        self._transport.commit(version)
        return {"bytes": float(size), "seconds": time.perf_counter() - began}

    # -- state --------------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Give the device's memory up for the engines (on the CPU there is nothing to give up)."""
        if self._platform.is_cuda:
            self._platform.synchronize()
            self._offload.sleep()
            self._platform.empty_cache()

    def wake(self) -> None:
        """Take the device's memory again."""
        self._offload.wake()

    def save(self, folder: str | Path) -> None:
        """Write model, optimizer, schedule and random state. OSError when the disk refuses."""
        save_checkpoint(folder, self._model, self._optimizer)

    def load(self, folder: str | Path) -> None:
        """Continue from what `save` wrote; the reference stays as it started. UserError if it does not fit."""
        load_checkpoint(folder, self._model, self._optimizer)

    def export(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder. OSError when the disk refuses."""
        export_folder(self.weights(), self._spec.model_path, folder)

    def close(self) -> None:
        """Leave the other ranks."""
        if self._transport is not None:
            self._transport.close()
        parallel.leave()


def _tokens_of(part: Part, row: int) -> NDArray[np.int64]:
    """Where a row's tokens are in the columns of a part's batch."""
    return np.arange(part.batch.offsets[row], part.batch.offsets[row + 1])
