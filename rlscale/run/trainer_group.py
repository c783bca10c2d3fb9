"""All trainer ranks as one: the driver calls it, it calls every rank and waits for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.needs import Pass
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.data.batch import Batch
from rlscale.data.rank_shard import RankShard
from rlscale.run.actor_host import Place
from rlscale.run.actor_settings import rank_settings
from rlscale.run.actors import TrainerActor
from rlscale.run.forks import Forks
from rlscale.run.placement import Layout
from rlscale.run.remote_calls import Calls
from rlscale.trainer.trainer_spec import Form, TrainerSpec
from rlscale.weights.transports.route import Route

_START = "cluster.start_timeout_s"


class TrainerGroup:
    """The ranks of one trainer. Every call goes to all of them: most are collective."""

    def __init__(
        self, layout: Layout, nodes: list[str], calls: Calls, logs: Path, config: Config, forks: Forks
    ) -> None:
        """Create the rank processes; they import the trainer's class while others start."""
        trainer, device = config.trainer._target_, config.cluster.device
        self._calls = calls
        self._parts_of: list[int] = []
        self._old_model = "policy"
        self._connected: tuple[str, ...] = ()
        self._one_machine = len({slot.node for slot in layout.ranks}) == 1
        self._ranks = []
        for one in rank_settings(config, layout, logs):
            place = Place(nodes[one.node], forks.runtime_env(one.environment))
            arguments = (str(one.log), one.rank, len(layout.ranks), one.local, one.threads)
            self._ranks.append(calls.host.start(TrainerActor, place, *arguments))
            calls.processes.add(f"rank {one.rank}", one.log, self._ranks[-1])
        self._preloading = [rank.preload.remote(device is Device.cpu, trainer) for rank in self._ranks]

    def start(self, spec: TrainerSpec, timeout_s: float) -> None:
        """Form the process groups and build the models."""
        address, port = self._meeting_point(timeout_s)
        starting = [rank.start.remote(spec, address, port) for rank in self._ranks]
        self._calls.wait(starting, "trainer start", timeout_s=timeout_s, limit=_START, heed_stop=True)
        self._parts_of = self.call("data_parallel_rank", what="trainer start")

    def convert(self, spec: TrainerSpec, target: Path, to: Form, timeout_s: float, *, critic: bool = False) -> None:
        """Instead of `start`: write the model that `spec` starts from in another form, holding nothing but weights."""
        address, port = self._meeting_point(timeout_s)
        calls = [rank.convert.remote(spec, address, port, target, to, critic) for rank in self._ranks]
        self._calls.wait(calls, f"writing {target}", heed_stop=True)

    def _meeting_point(self, timeout_s: float) -> tuple[str, int]:
        """Address and port of rank 0, once all ranks have imported what they need."""
        self._calls.wait(self._preloading, "trainer start", timeout_s=timeout_s, limit=_START, heed_stop=True)
        address, port = self._calls.one(
            self._ranks[0].address.remote(self._one_machine), "trainer start", timeout_s=timeout_s, limit=_START
        )
        return address, port

    def train_shards(
        self, shards: list[RankShard], version: int, *, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """One iteration's optimizer steps; metrics are the same on every rank. Each shard is one object in Ray's store.

        `force_old` asks for the old log-probs' own pass even where it can be skipped. Without `policy` only the critic
        makes steps, and metrics of the policy's are missing.
        """
        calls = [rank.train_shard.remote(ref, version, force_old, policy) for rank, ref in self._dealt(shards)]
        metrics: dict[str, float] = self._calls.wait(calls, "training step")[0]
        return metrics

    def columns(self, one: Pass, shards: list[RankShard], batch: Batch) -> NDArray[np.float32]:
        """The column of a pass for every token of a batch divided into `shards`, float32 [tokens_total].

        For the model `behaviour` the shards have the column `version`.
        """
        if one.model not in ("policy", "behaviour"):
            # They choose experts by themselves, and the column is large.
            shards = [replace(shard, batch=shard.batch.without("routed_experts")) for shard in shards]
        if one.model == "critic":
            calls = [rank.values.remote(ref) for rank, ref in self._dealt(shards)]
        else:
            calls = [rank.logprobs.remote(ref, one.model, None) for rank, ref in self._dealt(shards)]
        answers = self._calls.wait(calls, f"pass for {one.column}")
        column = np.zeros(batch.tokens_total, np.float32)
        for number, answer in zip(self._parts_of, answers, strict=True):
            if answer is not None:  # one rank of each shard answers
                column[_tokens_of(batch, shards[number].row_ids)] = answer
        return column

    def _dealt(self, shards: list[RankShard]) -> list[tuple[Any, Any]]:
        """Each rank with its shard, which ranks of one data-parallel place share."""
        refs = [self._calls.host.put(shard) for shard in shards]
        return [(rank, refs[number]) for rank, number in zip(self._ranks, self._parts_of, strict=True)]

    def logprobs(
        self, shard: RankShard, model: str = "policy", temperature: float | None = None
    ) -> NDArray[np.float32]:
        """Log-probs of one shard's tokens, computed alike by every data-parallel rank."""
        ref = self._calls.host.put(shard)
        answers = self._calls.wait([r.logprobs.remote(ref, model, temperature) for r in self._ranks], "log-prob pass")
        column: NDArray[np.float32] = next(answer for answer in answers if answer is not None)
        return column

    def connect_engines(
        self, route: Route, urls: tuple[str, ...], api_key: str, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Tell the ranks which engines their weights go to, and which way, unless that is where they go already.

        `meanwhile` runs while waiting.
        """
        if urls == self._connected:
            return
        self._connected = ()
        calls = [rank.connect_engines.remote(route, list(urls), api_key) for rank in self._ranks]
        timeout = route.timeout_s
        what = "connecting trainer and engines"
        self._calls.wait(calls, what, timeout_s=timeout, limit="weights.timeout_s", meanwhile=meanwhile)
        self._connected = urls

    def disconnected(self) -> None:
        """The ranks' connection is of no use any more: the next `connect_engines` makes another."""
        self._connected = ()

    @contextmanager
    def profiled(self, folder: Path, iteration: int) -> Iterator[None]:
        """Every rank records what it computes in the block, and writes it into the folder."""
        self._calls.wait([rank.begin_profile.remote() for rank in self._ranks], "beginning a profile")
        yield
        ends = [rank.end_profile.remote(folder, iteration) for rank in self._ranks]
        self._calls.wait(ends, f"writing the profile of iteration {iteration}")

    def call(
        self,
        method: str,
        *args: Any,
        what: str,
        timeout_s: float | None = None,
        limit: str = "cluster.call_timeout_s",
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Any other method of the trainer, on every rank."""
        refs = [rank.call.remote(method, *args) for rank in self._ranks]
        return self._calls.wait(refs, what, timeout_s=timeout_s, limit=limit, meanwhile=meanwhile)

    def close(self) -> None:
        """End the rank processes."""
        for rank in self._ranks:
            self._calls.host.end(rank)
        self._ranks = []


def _tokens_of(batch: Batch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the tokens of these rows are in the batch's token columns, row after row, int64."""
    lengths = batch.lengths[rows]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(batch.offsets[rows] - before, lengths)


def as_part(batch: Batch) -> RankShard:
    """A batch of one micro-batch as the shard of a rank (the canary)."""
    rows = np.arange(batch.rows)
    return RankShard(batch, [[rows]], rows)
