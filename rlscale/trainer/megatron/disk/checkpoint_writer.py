"""Writing a distributed checkpoint in three steps, so that the middle one can be left to a thread.

Planning and closing are collective and short. Writing concerns no other rank; it is torch's own file writer in this
process, as Megatron's starts further processes, which inside a Ray actor would import the actor's `__main__`. The files
are the same; Megatron reads them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.mapping import ShardedStateDict, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.checkpoint.utils import _DistWrapper

from rlscale.config.errors import UserError, first_line
from rlscale.platform.device import host_copy
from rlscale.trainer.checksums import SUMS, checksum
from rlscale.weights.checkpoint_index import INDEX


class CheckpointWriter:
    """One checkpoint folder on its way to disk. The format is Megatron's `torch_dist`, version 1."""

    def __init__(
        self, folder: str | Path, state: ShardedStateDict, *, copy: bool, beside: Mapping[str, str] | None = None
    ) -> None:
        """Plan who writes what; with `copy` this rank's shards are copied to host memory first. Collective.

        Without `copy`, `write` must come before the next step. `beside`: names and texts of further files.
        UserError when the folder cannot be made.
        """
        self._folder, self._beside = Path(folder), beside or {}
        shards, self._common = save_preprocess(state)
        own, _, _ = _replace_state_dict_keys_with_sharded_keys(shards, True)
        if copy:
            _copy_to_host(own)
        own = mcore_to_pyt_state_dict(own, False)  # objects become bytes here
        self._planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        self._writer = FileSystemWriter(self._folder, single_file_per_rank=True, thread_count=1)
        self._ranks = _DistWrapper(None, True, 0)
        self._metadata: Metadata | None = None
        plan = _on_every_rank(
            lambda: self._ranks.reduce_scatter("plan", lambda: self._local_plan(own), self._global_plan)
        )
        self._plan: SavePlan = self._planner.finish_plan(plan)
        self._failure: Exception | None = None
        self._results: list[WriteResult] = []
        self._sums: dict[str, str] = {}  # of the files that this rank has written

    def _local_plan(self, state: dict[str, Any]) -> SavePlan:
        self._planner.set_up_planner(state, is_coordinator=self._ranks.is_coordinator)
        self._writer.set_up_storage_writer(self._ranks.is_coordinator)
        return self._writer.prepare_local_plan(self._planner.create_local_plan())

    def _global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        plans, self._metadata = self._planner.create_global_plan(plans)
        return self._writer.prepare_global_plan(plans)

    def write(self) -> None:
        """Write this rank's files and force them to disk. A failure is kept for `close`: other ranks wait there."""
        try:
            if self._ranks.is_coordinator:
                buffer = io.BytesIO()
                torch.save(self._common, buffer)
                _write_file(self._folder / COMMON_STATE_FNAME, buffer.getbuffer())
                for name, text in self._beside.items():
                    _write_file(self._folder / name, memoryview(text.encode()))
                    self._sum(name)
                self._sum(COMMON_STATE_FNAME)
            self._results = self._writer.write_data(self._plan, self._planner).wait()
            for name in {result.storage_data.relative_path for result in self._results}:
                self._sum(name)
        except Exception as error:  # torch's writer gives a full disk other names than OSError
            self._failure = error
        self._planner.state_dict = {}  # it holds the copy

    def _sum(self, name: str) -> None:
        self._sums[name] = checksum(self._folder / name)

    def close(self) -> None:
        """Write what makes the folder a checkpoint, and checksums, once every rank has written. Collective.

        UserError, the same on every rank, where the disk refused on one of them.
        """

        def own_results() -> tuple[list[WriteResult], dict[str, str]]:
            if self._failure is not None:
                raise self._failure
            return self._results, self._sums

        def complete(ranks: list[tuple[list[WriteResult], dict[str, str]]]) -> None:
            assert self._metadata is not None
            self._writer.finish(self._metadata, [results for results, _ in ranks])
            sums = {name: sum_ for _, own in ranks for name, sum_ in own.items()}
            sums[INDEX] = checksum(self._folder / INDEX)  # which says where in the others each tensor lies
            _write_file(self._folder / SUMS, memoryview(json.dumps(sums, indent=2, sort_keys=True).encode()))
            save_config(CheckpointingConfig("torch_dist", 1), str(self._folder))

        _on_every_rank(lambda: self._ranks.all_reduce("write", own_results, complete))


class Writing:
    """The checkpoints of a rank's models while they are written, in the background if there is a copy to write from."""

    def __init__(self) -> None:
        self._writers: list[CheckpointWriter] = []
        self._thread: Future[None] | None = None

    def add(self, writer: CheckpointWriter) -> None:
        """One more folder that `close` closes."""
        self._writers.append(writer)

    def start(self) -> None:
        """Write all of them in a thread."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._thread = pool.submit(self._write)
        pool.shutdown(wait=False)

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()

    @property
    def done(self) -> bool:
        """Whether this rank has nothing left to write."""
        return self._thread is None or self._thread.done()

    def close(self) -> None:
        """Wait for this rank, then for the others, and close the folders. Collective. UserError as the writers'."""
        if self._thread is not None:
            self._thread.result()
        for writer in self._writers:
            writer.close()


def _copy_to_host(state: dict[str, Any]) -> None:
    """Replace the tensors by copies in host memory that later steps do not change."""
    for shards in state.values():
        for shard in shards if isinstance(shards, list) else [shards]:
            if isinstance(shard, ShardedTensor):
                shard.data = host_copy(shard.data.detach())


def _write_file(path: Path, content: memoryview) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _on_every_rank(step: Callable[[], Any]) -> Any:
    """Run a step that fails on every rank alike; UserError with the first rank's reason."""
    try:
        return step()
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise UserError(f"rank {rank}: {_reason(cause)}") from error


def _reason(error: BaseException) -> str:
    """What the disk said, where the error began as that."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return str(cause)
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"
