"""Which groups are generated when, which of them a batch takes, and what became of every prompt and token."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.data.buffer import GroupBuffer
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.attempt import Attempt, Demand
from rlscale.rollout.capacity import Capacity, Progress
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.episode import SampleFailed
from rlscale.rollout.ledger import Ledger, tokens_of
from rlscale.rollout.length_ratio import LengthRatio
from rlscale.rollout.pending_group import PendingGroup, in_order
from rlscale.rollout.refill import Refill
from rlscale.rollout.stale_tokens import leave_out, staleness_of

ATTEMPTS = 4
"""Samples tried for one place in a group before the group is given up for another prompt."""
_PROMPTS_AT_ONCE = 32
"""Prompts encoded in one go."""

Play = Callable[[Prompt, int, Attempt], Awaitable[Sample]]
"""Makes the sample at a place of a prompt's group. SampleFailed if that fails; counted already."""

_log = logging.getLogger(__name__)


class Scheduler:
    """Keeps engines full, as far as `Capacity` allows, and hands out batches that keep the staleness bound.

    The oldest prompt goes first. A group that was started is finished, however slow it is: a weight sync changes under
    which weights it goes on and nothing else. Whatever is finished goes to the buffer, also what comes at the same
    moment as the group that completes a batch. Everything runs on one event loop and takes the time from it.
    """

    def __init__(
        self,
        rollout: RolloutConfig,
        queue: PromptQueue[Prompt],
        buffer: GroupBuffer,
        refill: Refill,
        admission: Admission,
    ) -> None:
        self._bound, self._stale = rollout.max_staleness, rollout.stale
        self._per_batch, self._samples = rollout.groups_per_iteration, rollout.samples_per_group
        self._queue, self._buffer, self._refill, self._admission = queue, buffer, refill, admission
        self._capacity = Capacity.of(rollout)
        self.ledger = Ledger()
        self.length_ratio = LengthRatio(self._per_batch * self._samples)
        self._pending: dict[int, PendingGroup] = {}
        self._again: deque[PendingGroup] = deque()  # to be started before the source is asked for more
        self._outstanding = 0  # samples of pending groups that are not finished
        self._drawn = 0
        self._batches = 0
        self._version = -1
        self._taken = False  # whether the batch of this version has been handed out
        self._last_batch: list[Group] = []
        self._last_masked: list[int] = []
        self._error: BaseException | None = None
        self._room = asyncio.Event()  # there may be room for more groups
        self._demand = Demand(self._room.set)
        self._news = asyncio.Event()  # a group was finished, or something failed
        self._fetching = asyncio.Lock()  # held while prompts are between the source and their groups

    # ---- life --------------------------------------------------------------------------------------------------

    def start(self, play: Play) -> None:
        """Begin; nothing is started before the first `resume`."""
        self._play = play
        self._task = asyncio.create_task(self._run(), name="rollout scheduler")

    def resume(self, version: int) -> None:
        """The engines hold the weights of `version`, which may be what it was; another batch may be taken."""
        self._taken = False
        self._version = version
        self._room.set()
        self._news.set()

    async def close(self) -> None:
        """Drop what is under way."""
        tasks = [self._task, *(pending.task for pending in self._pending.values() if pending.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self, error: BaseException) -> None:
        """Generate no more; `next_batch` raises the error."""
        self._error = self._error or error
        self._admission.shut()
        self._news.set()

    @property
    def failed(self) -> bool:
        """Whether it has stopped."""
        return self._error is not None

    # ---- batches -----------------------------------------------------------------------------------------------

    async def next_batch(self) -> list[Group]:
        """The next batch, ordered by prompt index; waits until it is complete.

        What of it is over the bound is marked for the loss (`leave_out`). It counts as trained from now on. The error
        that stopped generation, if one did; RuntimeError when the batch of this version was taken already.
        """
        if self._taken:
            raise RuntimeError(f"the batch of weight version {self._version} was taken already; call resume first")
        while True:
            if self._error is not None:
                raise self._error
            self._news.clear()
            if groups := self._take():
                return self._handed_out(groups)
            await self._news.wait()

    def _take(self) -> list[Group]:
        """The groups of the batch; none while there are too few, or too many would stay behind too long."""
        if self._stale in (Stale.mask, Stale.withhold) and self._bound > 0:
            # Nothing has to leave by any time: whatever is over the bound by then is left out of the loss.
            return self._buffer.take(self._per_batch, self._version, self._version + len(self._buffer) + 1)
        late = self._buffer.expire(self._version, self._bound)
        for group in late:
            if self._stale is Stale.drop:
                self.ledger.stale(group)
            else:  # only after a restart with a smaller bound: the prompt gets its batch
                self.ledger.discarded(tokens_of(group), "stale")
                self._again.append(PendingGroup(group.prompt))
        if late:
            self._room.set()
        if len(self._buffer) < self._per_batch:
            return []
        waiting = self._pending.values() if self._stale is not Stale.drop else ()
        in_flight = [pending.oldest_version(self._version) for pending in waiting]
        return self._buffer.take(self._per_batch, self._version, self._bound, in_flight)

    def _handed_out(self, groups: list[Group]) -> list[Group]:
        self._taken = True
        self._batches += 1
        self._last_batch = groups
        self._last_masked = leave_out(groups, self._version, self._bound, self._stale)
        for group, masked in zip(groups, self._last_masked, strict=True):
            self.ledger.trained(group, masked)
        for group, reason in self._refill.settle():
            self.ledger.filtered(group, reason)
        self.length_ratio.trained(groups)
        self._room.set()
        return groups

    def measures(self) -> dict[str, float]:
        """Of the last batch: how many of its tokens have which staleness, and the length ratio."""
        found = self.length_ratio.measure()
        if self._last_batch:
            tokens = staleness_of(self._last_batch, self._version)
            found |= {f"staleness_tokens/{age}": float(number) for age, number in enumerate(tokens)}
        return found

    # ---- generating --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Start groups whenever there is room for them."""
        try:
            while True:
                await self._room.wait()
                self._room.clear()
                while (room := self._startable()) > 0:
                    async with self._fetching:
                        for pending in await self._next(min(room, _PROMPTS_AT_ONCE)):
                            self._launch(pending)
        except Exception as error:
            self.stop(error)

    def _startable(self) -> int:
        if self._version < 0 or self._error is not None:
            return 0
        now = Progress(self._batches, self._taken, len(self._pending), self._outstanding, len(self._buffer))
        return self._capacity.startable(now, self._admission.limit - self._demand.samples)

    async def _next(self, n: int) -> list[PendingGroup]:
        if self._again:
            return [self._again.popleft() for _ in range(min(n, len(self._again)))]
        prompts = await asyncio.to_thread(self._queue.take, n)
        self._drawn += len(prompts)
        return [PendingGroup(prompt) for prompt in prompts]

    def _launch(self, pending: PendingGroup) -> None:
        self._pending[pending.prompt.index] = pending
        self._outstanding += pending.missing(self._samples)
        pending.expect(pending.missing(self._samples), self._demand)
        pending.task = asyncio.create_task(self._generate(pending), name=f"group {pending.prompt.index}")

    async def _generate(self, pending: PendingGroup) -> None:
        """Generate one group and put it into the buffer or aside; give it up if one of its places stays empty."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in range(self._samples):
                    if place not in pending.samples:
                        tasks.create_task(self._fill(pending, place))
            self._finished(pending)
        except BaseExceptionGroup as errors:
            failed, serious = errors.split(SampleFailed)
            if serious is not None:
                self._interrupted(pending, serious.exceptions[0])
            else:
                assert failed is not None
                self._given_up(pending, failed.exceptions[0])
        except Exception as error:  # somebody's own filter, or nothing passes it
            self._interrupted(pending, error)
        finally:
            del self._pending[pending.prompt.index]
            self._outstanding -= pending.missing(self._samples)
            pending.left(self._demand)
            self._room.set()
            self._news.set()

    async def _fill(self, pending: PendingGroup, place: int) -> None:
        """A sample for one place of the group; another seed replaces one that failed, up to `ATTEMPTS` times."""
        number = 0
        while True:
            attempt = pending.attempt(place, number, lambda: self._version, self.ledger, self._demand)
            self.length_ratio.started(attempt)
            try:
                sample = await self._play(pending.prompt, place, attempt)
            except SampleFailed as error:
                attempt.lost(f"failed_{error.where}")
                del pending.attempts[place]
                number = attempt.number + 1
                if number >= ATTEMPTS:
                    raise
            else:
                pending.finished(place, sample)
                self._outstanding -= 1
                return

    def _finished(self, pending: PendingGroup) -> None:
        group = pending.group()
        kept = self._refill.admit(group)
        self._queue.observe(group.prompt, list(group.rewards), "kept" if kept is group else "filtered")
        if kept is not None:
            self._buffer.put(kept)

    def _given_up(self, pending: PendingGroup, error: BaseException) -> None:
        where = error.where if isinstance(error, SampleFailed) else "request"
        self.ledger.failed(where)
        self.ledger.discarded(pending.tokens, f"failed_{where}")
        self._queue.observe(pending.prompt, [], "failed")

    def _interrupted(self, pending: PendingGroup, error: BaseException) -> None:
        """Nothing is wrong with the prompt: what there is of its group goes on after a restart."""
        self._again.append(PendingGroup.of(self._settled(pending)))
        self.stop(error)

    def _settled(self, pending: PendingGroup) -> dict[str, Any]:
        """What is kept of a group when its attempts end; the tokens of the others are discarded."""
        state = pending.state_dict()
        self.ledger.discarded(pending.tokens - PendingGroup.of(state).tokens, "restart")
        return state

    # ---- accounts and checkpoints --------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Both accounts, of the whole run. LedgerError if one does not balance."""
        self.check()
        held = self._held()
        return self.ledger.prompts.metrics("drawn", held["prompts"]) | self.ledger.tokens.metrics(
            "received", held["tokens"]
        )

    def check(self) -> None:
        """LedgerError if a prompt or a token is unaccounted for."""
        held = self._held()
        self.ledger.prompts.received = self._drawn + self._queue.dropped + self._queue.bad
        self.ledger.prompts.check("drawn", held["prompts"])
        self.ledger.tokens.check("received", held["tokens"])

    def _held(self) -> dict[str, dict[str, int]]:
        """What has no fate yet, counted from the groups themselves."""
        ready = [*self._buffer.state_dict()["groups"], *self._refill.aside]
        under_way = [*self._pending.values(), *self._again]
        return {
            "prompts": {
                "too_long": self._queue.dropped,
                "bad": self._queue.bad,
                "ready": len(ready),
                "under_way": len(under_way),
            },
            "tokens": {
                "ready": sum(map(tokens_of, ready)),
                "under_way": sum(pending.tokens for pending in under_way),
            },
        }

    async def state_dict(self, trained: bool) -> dict[str, Any]:
        """All of it, picklable; see `RolloutService.state_dict`. LedgerError if an account does not balance."""
        async with self._fetching:
            self.check()
            ledger = copy.deepcopy(self.ledger)
            states = [pending.state_dict() for pending in in_order([*self._pending.values(), *self._again])]
            kept = sum(PendingGroup.of(state).tokens for state in states)
            ledger.discarded(self._held()["tokens"]["under_way"] - kept, "restart")
            buffer, batches = self._buffer.state_dict(), self._batches
            if not trained and self._taken:
                buffer["groups"] = self._last_batch + buffer["groups"]
                batches -= 1
                for group, masked in zip(self._last_batch, self._last_masked, strict=True):
                    ledger.untrained(group, masked)
            return {
                "version": self._version,
                "queue": self._queue.state_dict(),
                "pending": states,
                "buffer": buffer,
                "refill": self._refill.state_dict(),
                "ledger": ledger.state_dict(),
                "length_ratio": self.length_ratio.state_dict(),
                "drawn": self._drawn,
                "batches": batches,
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Before the first `resume`. UserError if the data has changed."""
        if self._pending or self._version >= 0:
            raise RuntimeError("load_state_dict must be called before the first resume")
        self._queue.load_state_dict(state["queue"])
        self._again = deque(PendingGroup.of(one) for one in state["pending"])
        self._buffer.load_state_dict(state["buffer"])
        self._refill.load_state_dict(state["refill"])
        self.ledger.load_state_dict(state["ledger"])
        self.length_ratio.load_state_dict(state["length_ratio"])
        self._drawn, self._batches = int(state["drawn"]), int(state["batches"])
        self.check()
