"""Weight sync: the trainer's weights to every engine, then proof on a fixed prompt that they arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.adapter_names import adapter_name
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.engine_group_config import Role
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.rollout_config import OnSync
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.config.schema.trainer_config import Mtp
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import as_shard
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.families.served_form import WeightForm
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.serve.engine_config import why_they_differ
from rlscale.serve.paired import ALONE
from rlscale.weights.transfer import LOAD
from rlscale.weights.transports.route import Route

_Scored = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Tokens, and log-probs of the last of them."""

_BOUNDS = {DType.float32: 1e-3, DType.bfloat16: 0.2, DType.float16: 0.06}
_LOOK_EVERY_S = 1.0
_CANARY_SEED = 20_240_131


@dataclass
class WeightSync:
    """Sends the trainer's weights to the engines and checks every so often that both compute the same."""

    config: Config
    trainer: TrainerGroup
    engines: Engines
    rollout: Rollout
    architecture: Mapping[str, Any]
    """The policy's Hugging Face config."""
    folder: Path
    """Where weights lie on their way, for transports by files; new in each process of the run."""
    syncs: int = 0
    _losses: int = 0  # of the trainer's ranks by the end of the last sync

    def __call__(self, version: int, urls: Sequence[str] | None = None) -> dict[str, float]:
        """Give the engines (all of them, or those at `urls`) the trainer's weights as `version`; metrics of the sync.

        Raises RunFailed when the canary's log-probs differ by more than `weights.canary_bound`.
        """
        metrics = self.give(version, tuple(urls if urls is not None else self.engines.urls), verified=urls is not None)
        if urls is None:
            self.over()
        return metrics

    def over(self) -> None:
        """All engines have been given a version: the next one is of another sync."""
        self.syncs += 1
        self._losses = self.trainer.losses

    def give(self, version: int, targets: Sequence[str], *, verified: bool = False) -> dict[str, float]:
        """The same for some engines of a sync; the canary is theirs alone, where it is due or they are `verified`."""
        targets = tuple(targets)
        watch = self.watching(version, targets)
        self.trainer.connect_engines(self._route(targets), targets, self.engines.api_key, watch)
        try:
            answers = self.trainer.send_weights(version, watch)
        except UserError:
            self.trainer.disconnected()  # what became of the connection is unknown: make a new one next time
            raise
        first = next(answer for answer in answers if answer)
        metrics = {f"sync_{name}": float(value) for name, value in first.items()}
        if loads := [answer[LOAD] for answer in answers if answer and LOAD in answer]:
            metrics[f"sync_{LOAD}"] = max(loads)  # each rank knows those that it talks to
        every = self.config.weights.verify_every
        others = self.trainer.losses != self._losses  # until all engines have got the weights of these ranks
        if verified or others or self.syncs == 0 or (every and self.syncs % every == 0):
            metrics["canary_diff"] = self.verify(version, targets)
        return metrics

    def watching(self, version: int, urls: Sequence[str] | None = None) -> Callable[[], None]:
        """Looks every second whether the engines at `urls`, which take weights now, are there; UserError if one is not.

        None: all of them and the router, of which none takes weights yet, so that one that is silent is stuck.
        """
        next_look = time.monotonic() + _LOOK_EVERY_S

        def look() -> None:
            nonlocal next_look
            if time.monotonic() < next_look:
                return
            next_look = time.monotonic() + _LOOK_EVERY_S
            for one in self.engines.down() if urls is None else self.engines.down_among(urls, loading=True):
                raise UserError(f"weight sync {version}: {one.name} {one.why}")

        return look

    def verify(self, version: int, urls: Sequence[str]) -> float:
        """Largest difference of log-prob between the trainer and the engines at `urls` on the canary prompt."""
        tokens = canary_prompt(self.config.weights.canary_tokens, int(self.architecture["vocab_size"]))
        # Quantised engines are compared with what their codes are worth, so that the bound is the same.
        model = "policy" if self.config.rollout.weights is WeightForm.as_trained else "served"
        expected: dict[bytes, NDArray[np.float32]] = {}
        bound = self.config.weights.canary_bound or _BOUNDS[self.config.model.dtype]
        worst = 0.0
        for url, (scored_tokens, scored) in zip(urls, self._scores(version, urls, tokens), strict=True):
            if (key := scored_tokens.tobytes()) not in expected:
                batch = as_shard(_canary_batch(scored_tokens))
                expected[key] = self.trainer.logprobs(batch, model, temperature=1.0)
            difference = float(np.max(np.abs(scored - expected[key][-len(scored) :])))
            if not difference <= bound:  # NaN fails too
                raise RunFailed(
                    f"weight sync {version}: log-probs of {url} and the trainer differ by {difference:.2e} on the "
                    f"canary prompt, more than weights.canary_bound={bound:g}; "
                    + why_they_differ(
                        url, self.engines.api_key or None, self.architecture, self.config.model.dtype.value
                    )
                )
            worst = max(worst, difference)
        return worst

    def _scores(self, version: int, urls: Sequence[str], tokens: NDArray[np.int32]) -> list[_Scored]:
        """What each engine says."""
        watch = self.watching(version, urls)
        adapter = adapter_name(version) if self.config.serves_adapters else None
        with self._cache_is_theirs():
            return [self._score(url, tokens, watch, adapter) for url in urls]

    @contextmanager
    def _cache_is_theirs(self) -> Iterator[None]:
        """Within the block engines have their cache: where the trainer has its memory, it sleeps meanwhile.

        It is awake afterwards also where an engine fails: what comes next is to send the weights once more.
        """
        if not self.engines.gave_memory:
            yield
            return
        self.trainer.call("sleep", what="trainer sleep")
        try:
            self.engines.resume_memory(["kv_cache"])
            yield
        except UserError:
            self.engines.release_memory(["kv_cache"], of_the_living=True)
            self.trainer.call("wake", what="trainer wake")
            raise
        self.engines.release_memory(["kv_cache"])
        self.trainer.call("wake", what="trainer wake")

    def _score(self, url: str, tokens: NDArray[np.int32], watch: Callable[[], None], adapter: str | None) -> _Scored:
        """Tokens, and the engine's log-probs of the last of them. One that only generates is handed the first half."""
        key, role = self.engines.api_key, self.engines.role_of(url)
        if role is Role.decode:
            read = tokens[: len(tokens) // 2]
            reads = next(one for one in self.engines.urls if self.engines.role_of(one) is Role.prefill)
            made, scored = self.rollout.handed_over(reads, url, key, read, len(tokens) - len(read), watch)
            return np.concatenate([read, made]), scored
        fields = ALONE if role is Role.prefill else {}
        return tokens, self.rollout.score(url, key, tokens, watch, adapter, fields)

    def _route(self, urls: Sequence[str]) -> Route:
        cluster = self.config.cluster
        ranks = dict(zip(self.engines.urls, self.engines.ranks, strict=True))
        first = dict(zip(self.engines.urls, accumulate(self.engines.ranks, initial=0), strict=False))
        sizes = tuple(ranks[url] for url in urls)
        shares = cluster.placement is Placement.colocated
        pause = self.config.rollout.on_sync.pause
        return Route(
            device=cluster.device.value,
            shares_devices=shares,
            ranks=sizes[0] if len(set(sizes)) == 1 else sizes,  # one route, and so one transport, for waves of any size
            first_ranks=tuple(first[url] for url in urls) if shares else None,
            timeout_s=self.config.weights.timeout_s,
            # In waves generation goes on: a request that comes late must wait in the engine, not run in an update.
            keep=pause or (OnSync.retract.value if self.config.syncs_in_waves else None),
            to_draft=_trains_draft(self.config),
            started_from=self.engines.started_from,
            folder=str(self.folder),
        )


def _trains_draft(config: Config) -> bool:
    """Whether what the trainer sends is for the draft of engines that speculate, too; alike without one."""
    algorithm = config.rollout.speculation.algorithm
    return algorithm is Algorithm.none or (algorithm is Algorithm.mtp and config.trainer.mtp is Mtp.trained)


def canary_prompt(length: int, vocabulary: int) -> NDArray[np.int32]:
    """The fixed token ids of the canary, int32 [length]: arbitrary words of the vocabulary, the same in every run."""
    return np.random.default_rng(_CANARY_SEED).integers(0, vocabulary, length, dtype=np.int32)


def _canary_batch(tokens: NDArray[np.int32]) -> Batch:
    prompt = Prompt(index=0, id="canary", tokens=tokens[:1], label=None)
    sample = Sample.from_response(prompt, 0, tokens[1:], None, version=0)
    return Batch.from_groups([Group(prompt, [sample])])
