"""All trainer ranks as one: the driver calls it, it calls every rank and waits for all of them.

Ranks that are lost are replaced where `run.recover` wants it, and asked again: whoever called notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.needs import Pass
from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.observe.timeline import MOST_LANES
from rlscale.run.disk.checkpoint import sums_of
from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.rank_places import RankPlaces
from rlscale.run.sides.recovery import Recoveries, RedoLog, Steps
from rlscale.run.sides.state_copies import CopyOfNoUse
from rlscale.trainer.trainer_spec import Form, TrainerSpec
from rlscale.weights.transports.route import Route

_GONE_S = 10.0
"""How long ranks that were ended may take to give back what they held."""
_CHECKING = "checking the checkpoint"
_ENGINES_FIRST = 2.0
"""How many times `weights.timeout_s` the driver waits for ranks that talk to engines: these wait for that long
themselves, and begin later. So an engine that hangs is an error of theirs, which names it, and no loss of ranks."""
_ENGINES_LIMIT = f"{_ENGINES_FIRST:g} times weights.timeout_s"


class RanksLost(UserError):
    """Ranks were lost with what they had begun; others come in their place."""


class TrainerGroup:
    """The ranks of one trainer. Every call goes to all of them: most are collective."""

    def __init__(self, places: RankPlaces) -> None:
        """Create the rank processes; they import the trainer's class while others start. See `RankActors`."""
        self._places, self._calls, self._recoveries = places, places.calls, places.recoveries
        self._actors = places.new_actors()
        self._parts_of: list[int] = []
        self._connected: tuple[str, ...] = ()
        self._way: tuple[Route, tuple[str, ...], str] | None = None
        self._redo = RedoLog()
        self._lost: ProcessLost | None = None
        self.losses = 0
        """How often ranks were lost."""

    def start(self, spec: TrainerSpec, timeout_s: float) -> None:
        """Form the process groups and build the models."""
        self._started_by = spec, timeout_s
        self._parts_of = self._actors.start(self._places.told(spec), timeout_s)
        if self._recoveries is not None and self._recoveries.copies is not None:
            self._recoveries.copies.meet(self._actors)

    def convert(self, spec: TrainerSpec, target: Path, to: Form, timeout_s: float, *, critic: bool = False) -> None:
        """Instead of `start`: write the model that `spec` starts from in another form, holding nothing but weights."""
        address, port = self._actors.meeting_point(timeout_s)
        calls = [rank.convert.remote(spec, address, port, target, to, critic) for rank in self._ranks]
        self._calls.wait(calls, f"writing {target}", heed_stop=True)

    @property
    def copies(self) -> int:
        """How many data-parallel ranks there are now."""
        return self._places.copies

    @property
    def _ranks(self) -> list[Any]:
        return self._actors.handles

    # ---- asking, and asking again ------------------------------------------------------------------------------

    def _ask(self, calls: Callable[[], list[Any]], what: str, **options: Any) -> list[Any]:
        """The answers of all ranks to what `calls` asks of them, see `Calls.wait`; of others where these are lost."""
        before: ProcessLost | None = None
        while True:
            self._bring_back()
            asked = calls()
            try:
                return self._calls.wait(asked, what, **options)
            except ProcessLost as lost:
                if lost.refs is not asked:  # somebody who was looked after meanwhile
                    raise
                self._lose(lost)
                if before is not None and before.from_within and lost.from_within:
                    raise  # it is what was asked that does it
                before = lost

    def _ask_once(self, calls: Callable[[], list[Any]], what: str) -> list[Any]:
        """The same for what is of no use to others. RanksLost where the ranks are lost and others will come."""
        self._bring_back()
        asked = calls()
        try:
            return self._calls.wait(asked, what)
        except ProcessLost as lost:
            self._lose(lost)
            if self._recoveries is None or not self._recoveries.possible:
                raise
            raise RanksLost(lost.brief) from lost

    @property
    def awaits_others(self) -> bool:
        """Whether ranks are lost, and others come in their place if the run goes on."""
        return self._lost is not None and self._recoveries is not None and self._recoveries.wanted

    def _lose(self, lost: ProcessLost) -> None:
        self._lost, self._connected = lost, ()
        self.losses += 1

    def _bring_back(self) -> None:
        """Where ranks were lost, get others that are as these were before the call that they did not finish.

        The error itself where the run is to end of it.
        """
        while self._lost is not None:
            if self._recoveries is None:
                raise self._lost
            self._recoveries.begin(self._lost, self._redo.done)
            try:
                copied = self._renew(self._recoveries)
            except ProcessLost as again:
                self._lose(again)
                continue
            self._lost = None
            self._recoveries.done(self._redo, copied)

    def _renew(self, recoveries: Recoveries) -> int | None:
        """End the ranks, and bring others to where these were; see `_do_again`."""
        self._actors.end(_GONE_S)
        self._actors = self._places.new_actors()
        self._calls.hang_limits.others()
        self.start(*self._started_by)
        try:
            return self._do_again(recoveries)
        except CopyOfNoUse:  # what some of them took is no state to load or to train on: begin with fresh ones
            recoveries.need_all_since(self._redo)
            return self._renew(recoveries)

    def _do_again(self, recoveries: Recoveries) -> int | None:
        """Bring the ranks to where the lost ones were; after how many iterations the copy was that they began with."""
        copied = None
        if recoveries.copies is not None:
            copied = recoveries.copies.put(self._actors, self._redo.first)
        if copied is None:
            self._load_again(recoveries)
        for steps in self._redo.since(copied):
            self._calls.check_stop()
            self._calls.wait(self._train(steps), steps.name, measured=True)
        return copied

    def _load_again(self, recoveries: Recoveries) -> None:
        recoveries.need_all_since(self._redo)
        checkpoint = self._redo.checkpoint
        if checkpoint is not None:
            found = self._calls.wait(self._to_all("damaged", checkpoint, sums_of(checkpoint)), _CHECKING)
            if names := ", ".join(name for names in found for name in names):
                raise RunFailed(f"the ranks cannot go on from {checkpoint}: {names} is not what was written")
            load = self._to_all("load", checkpoint / "trainer", self._redo.resumed)
            self._calls.wait(load, "loading the checkpoint")

    # ---- steps and passes --------------------------------------------------------------------------------------

    def train_shards(
        self, shards: list[RankShard], version: int, *, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        """One iteration's optimizer steps; metrics are the same on every rank. Each shard is one object in Ray's store.

        `force_old` asks for the old log-probs' own pass even where it can be skipped. Without `policy` only the critic
        makes steps, and metrics of the policy's are missing.
        """
        steps = Steps([self._calls.host.put(shard) for shard in shards], version, force_old, policy)
        metrics: dict[str, float] = self._ask(lambda: self._train(steps), steps.name, measured=True)[0]
        if self._recoveries is not None and self._recoveries.wanted:
            self._redo.steps.append(steps)
            self._copy_state(self._recoveries)
        return metrics

    def _copy_state(self, recoveries: Recoveries) -> None:
        """Where that is wanted, keep a copy of the ranks' state in memory."""
        if recoveries.copies is None:
            return
        try:
            recoveries.copies.take(self._actors, self._redo.done)
        except ProcessLost as lost:  # others begin with the copy before, when they are needed
            self._lose(lost)
            return
        if not recoveries.saves:  # not even without a copy: batches would pile up until the end of the run
            self._redo.forget(self._redo.done)

    def _train(self, steps: Steps) -> list[Any]:
        told = steps.version, steps.force_old, steps.policy
        return [rank.train_shard.remote(ref, *told) for rank, ref in self._dealt(self._places.dealt(steps.shards))]

    def part_made(self) -> bool:
        """See TrainerSide. True, too, of a trainer that does not tell (`TellsParts`)."""
        return any(self._calls.wait([rank.part_made.remote() for rank in self._ranks], "steps that were made"))

    def columns(self, one: Pass, shards: list[RankShard], batch: Batch) -> NDArray[np.float32]:
        """The column of a pass for every token of a batch divided into `shards`, float32 [tokens_total].

        For the model `behaviour` the shards have the column `version`.
        """
        if one.model not in ("policy", "behaviour"):
            # They choose experts by themselves, and the column is large.
            shards = [replace(shard, batch=shard.batch.without("routed_experts")) for shard in shards]
        asked: list[RankShard] = []

        def calls() -> list[Any]:
            asked[:] = self._places.divided(shards)
            refs = [self._calls.host.put(shard) for shard in asked]
            if one.model == "critic":
                return [rank.values.remote(ref) for rank, ref in self._dealt(refs)]
            return [rank.logprobs.remote(ref, one.model, None) for rank, ref in self._dealt(refs)]

        answers = self._ask(calls, f"pass for {one.column}", measured=True)
        column = np.zeros(batch.tokens_total, np.float32)
        for number, answer in zip(self._parts_of, answers, strict=True):
            if answer is not None:  # one rank of each shard answers
                column[batch.places_of(asked[number].row_ids)] = answer
        return column

    def _dealt(self, refs: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Each rank with its shard, which ranks of one data-parallel place share."""
        return [(rank, refs[number]) for rank, number in zip(self._ranks, self._parts_of, strict=True)]

    def logprobs(
        self, shard: RankShard, model: str = "policy", temperature: float | None = None
    ) -> NDArray[np.float32]:
        """Log-probs of one shard's tokens, computed alike by every data-parallel rank."""
        ref = self._calls.host.put(shard)

        def calls() -> list[Any]:
            return [rank.logprobs.remote(ref, model, temperature) for rank in self._ranks]

        answers = self._ask(calls, "log-prob pass", measured="log-prob pass")
        column: NDArray[np.float32] = next(answer for answer in answers if answer is not None)
        return column

    # ---- weights -----------------------------------------------------------------------------------------------

    def connect_engines(
        self, route: Route, urls: tuple[str, ...], api_key: str, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Tell the ranks which engines their weights go to, and which way, unless that is where they go already.

        `meanwhile` runs while waiting.
        """
        self._way = route, urls, api_key
        if urls == self._connected:
            return
        self._connected = ()
        what, limit_s = "connecting trainer and engines", _ENGINES_FIRST * route.timeout_s

        def calls() -> list[Any]:
            return [rank.connect_engines.remote(route, list(urls), api_key) for rank in self._ranks]

        self._ask(calls, what, timeout_s=limit_s, limit=_ENGINES_LIMIT, meanwhile=meanwhile, measured=what)
        self._connected = urls

    def send_weights(self, version: int, meanwhile: Callable[[], None]) -> list[Any]:
        """Send the weights to the connected engines as `version`; what each rank tells of it."""
        assert self._way is not None
        way = self._way

        def calls() -> list[Any]:
            if not self._connected:  # other ranks than those that were
                self.connect_engines(*way, meanwhile)
            return self._to_all("send_weights", version)

        limits = {"timeout_s": _ENGINES_FIRST * way[0].timeout_s, "limit": _ENGINES_LIMIT, "measured": "weight sync"}
        return self._ask(calls, f"weight sync {version}", meanwhile=meanwhile, **limits)

    def disconnected(self) -> None:
        """The ranks' connection is of no use any more: the next `connect_engines` makes another."""
        self._connected = ()

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def begin_save(self, folder: Path, copy: bool) -> None:
        """Save this moment into a folder; with `copy` the writing goes on in the background. RanksLost."""
        self._ask_once(lambda: self._to_all("begin_save", folder, copy), "checkpoint")
        self._redo.save_begun()

    def is_saved(self) -> bool:
        """Whether every rank has written its part. RanksLost."""
        return all(self._ask_once(lambda: self._to_all("saved"), "checkpoint"))

    def finish_save(self) -> None:
        """Make what they wrote a whole. RanksLost."""
        self._ask_once(lambda: self._to_all("finish_save"), "checkpoint")

    def saved(self, checkpoint: Path) -> None:
        """What `begin_save` began is part of a whole checkpoint by now: lost ranks begin with it from here on."""
        self._redo.saved(checkpoint)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        self.call("load", checkpoint / "trainer", what="loading the checkpoint")
        self._redo.loaded(checkpoint)

    def damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        """The files of a checkpoint whose content has another checksum; every rank reads its share."""
        return [name for names in self.call("damaged", checkpoint, sums, what=_CHECKING) for name in names]

    # ---- the rest ----------------------------------------------------------------------------------------------

    def busy(self) -> list[list[tuple[str, float, float]]]:
        """What each rank did since the last call; nothing where there are more of them than lanes."""

        def calls() -> list[Any]:
            return [rank.busy.remote() for rank in self._ranks] if len(self._ranks) <= MOST_LANES else []

        return self._ask(calls, "asking what the ranks did")

    @contextmanager
    def profiled(self, folder: Path, iteration: int) -> Iterator[None]:
        """Every rank records what it computes in the block, and writes it into the folder, unless one is lost."""
        self._ask(lambda: [rank.begin_profile.remote() for rank in self._ranks], "beginning a profile")
        losses = self.losses
        yield
        if losses == self.losses:
            what = f"writing the profile of iteration {iteration}"
            with suppress(RanksLost):  # others come when they are needed, and have recorded nothing
                self._ask_once(lambda: [rank.end_profile.remote(folder, iteration) for rank in self._ranks], what)

    def doing(self) -> str:
        """See TrainerSide."""
        return self._calls.what_they_do()

    def call(self, method: str, *args: Any, what: str) -> list[Any]:
        """Any other method of the trainer, on every rank."""
        return self._ask(lambda: self._to_all(method, *args), what)

    def _to_all(self, method: str, *args: Any) -> list[Any]:
        return [rank.call.remote(method, *args) for rank in self._ranks]

    def close(self) -> None:
        """End the rank processes."""
        self._actors.end()
