"""Which groups are generated when, and what became of every prompt and token."""

from __future__ import annotations

import asyncio
import copy
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.data.buffer import GroupBuffer
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.attempt import Attempt, Demand
from rlscale.rollout.batches import Batches
from rlscale.rollout.capacity import Capacity, Progress
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.episode import SampleFailed
from rlscale.rollout.group_journal import GroupJournal
from rlscale.rollout.ledger import Ledger
from rlscale.rollout.length_ratio import LengthRatio
from rlscale.rollout.pending_group import PendingGroup, in_order
from rlscale.rollout.recovered_groups import RecoveredGroups
from rlscale.rollout.refill import Refill

ATTEMPTS = 4
"""Samples tried for one place in a group before the group is given up for another prompt."""
_PROMPTS_AT_ONCE = 32
"""Prompts encoded in one go."""
_BEGUN_PER_PLACE = 2
"""Samples that are begun, in times of those that engines take at once: as many get ready as others generate."""

Play = Callable[[Prompt, int, Attempt], Awaitable[Sample]]
"""Makes the sample at a place of a prompt's group. SampleFailed if that fails; counted already."""
Judge = Callable[[Group], Awaitable[None]]
"""Rewards the samples of a finished group together. SampleFailed if that fails; counted already."""


class Scheduler:
    """Keeps engines full, as far as `Capacity` allows, and hands out batches that keep the staleness bound (`Batches`).

    The oldest prompt goes first. A group that was started is finished, however slow it is: a weight sync changes under
    which weights it goes on and nothing else. Whatever is finished goes to the buffer, also what comes at the same
    moment as the group that completes a batch. Everything runs on one event loop and takes the time from it.

    However many groups wait for their turn, only those begin whose turn comes soon: the others are a prompt each, and
    have no task and no environment yet.
    """

    def __init__(
        self,
        rollout: RolloutConfig,
        queue: PromptQueue[Prompt],
        buffer: GroupBuffer,
        refill: Refill,
        admission: Admission,
        journal: GroupJournal | None = None,
    ) -> None:
        """`journal`: where groups are written down as they finish."""
        self._samples = rollout.samples_per_group
        self._queue, self._admission = queue, admission
        self._capacity = Capacity.of(rollout)
        self.ledger = Ledger()
        self._lengths = LengthRatio(rollout.groups_per_iteration * self._samples)
        self._batches = Batches(rollout, buffer, refill, self.ledger)
        self._journal = journal
        self.recovered = RecoveredGroups(journal, rollout.max_staleness)
        """Groups that a process before this one has finished, and whose prompts are not drawn yet."""
        self._pending: dict[int, PendingGroup] = {}
        self._again: deque[PendingGroup] = deque()  # to be started before the source is asked for more
        self._waiting: list[tuple[int, PendingGroup]] = []  # pending and not begun: a heap, by prompt index
        self._outstanding = 0  # samples of pending groups that are not finished
        self._drawn = 0
        self.version = -1
        """Of the weights that engines hold; -1 before the first `resume`."""
        self._error: BaseException | None = None
        self._room = asyncio.Event()  # there may be room for more groups
        self._demand = Demand(self._room.set)
        admission.tell(self._room.set)
        self._news = asyncio.Event()  # a group was finished, or something failed
        self._fetching = asyncio.Lock()  # held while prompts are between the source and their groups

    # ---- life --------------------------------------------------------------------------------------------------

    def start(self, play: Play, judge: Judge) -> None:
        """Begin; nothing is started before the first `resume`."""
        self._play, self._judge = play, judge
        self._task = asyncio.create_task(self._run(), name="rollout scheduler")

    def resume(self, version: int) -> None:
        """The engines hold the weights of `version`, which may be what it was; another batch may be taken."""
        self._batches.taken = False
        self.recovered.resumed(version, first=self.version < 0)
        self.version = version
        self._room.set()
        self._news.set()

    async def next_batch(self) -> list[Group]:
        """The next batch, ordered by prompt index; waits until it is complete. It counts as trained from now on.

        The error that stopped generation, if one did; RuntimeError when the batch of this version was taken already.
        """
        if self._batches.taken:
            raise RuntimeError(f"the batch of weight version {self.version} was taken already; call resume first")
        while True:
            if self._error is not None:
                raise self._error
            self._news.clear()
            self._again.extend(map(PendingGroup, self._batches.expire(self.version)))
            groups = self._batches.take(self.version, self._in_flight)
            self._room.set()
            if groups:
                self._lengths.trained(groups, self._held_samples())
                return groups
            await self._news.wait()

    def _in_flight(self) -> list[int]:
        """The oldest version of each group that is not finished."""
        return [pending.oldest_version(self.version) for pending in self._pending.values()]

    def _held_samples(self) -> int:
        """Samples that were started and are under way, ready, or set aside."""
        return self._batches.held()[0] * self._samples + sum(one.started for one in self._pending.values())

    async def close(self) -> None:
        """Drop what is under way."""
        self._waiting.clear()  # else those that are cancelled make room for them
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
                            self._adopt_or_launch(pending)
                    self._begin()
                self._begin()
        except Exception as error:
            self.stop(error)

    def _startable(self) -> int:
        if self.version < 0 or self._error is not None:
            return 0
        done = self._batches
        now = Progress(done.count, done.taken, len(self._pending), self._outstanding, done.ready)
        return self._capacity.startable(now, self._admission.limit - self._demand.samples)

    async def _next(self, n: int) -> list[PendingGroup]:
        if self._again:
            return [self._again.popleft() for _ in range(min(n, len(self._again)))]
        prompts = await asyncio.to_thread(self._queue.take, n)
        self._drawn += len(prompts)
        return [PendingGroup(prompt) for prompt in prompts]

    def _adopt_or_launch(self, pending: PendingGroup) -> None:
        """A group that was finished before a kill is not generated again."""
        found = self.recovered.take(pending.prompt)
        if found is None:
            self._launch(pending)
            return
        finished, kept = PendingGroup.finished_as(pending.prompt, found), pending.found_in(found)
        self.ledger.discarded(pending.tokens - kept, "restart")
        self.ledger.received(finished.tokens - kept)
        self.recovered.tokens += finished.tokens - kept
        self._lengths.adopted(one for one in found.samples if one.index not in pending.samples)
        try:
            self._take_in(finished.group())
        except Exception as error:
            self._interrupted(finished, error)
        self._news.set()

    def _launch(self, pending: PendingGroup) -> None:
        self._pending[pending.prompt.index] = pending
        self._outstanding += pending.missing(self._samples)
        heapq.heappush(self._waiting, (pending.prompt.index, pending))

    def _begin(self) -> None:
        """Begin the groups whose turn comes soon."""
        while self._waiting and not self.failed and self._demand.samples < _BEGUN_PER_PLACE * self._admission.limit:
            index, pending = heapq.heappop(self._waiting)
            pending.expect(pending.missing(self._samples), self._demand)
            pending.task = asyncio.create_task(self._generate(pending), name=f"group {index}")

    async def _generate(self, pending: PendingGroup) -> None:
        """Generate one group and put it into the buffer or aside; give it up if one of its places stays empty."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in range(self._samples):
                    if place not in pending.samples:
                        tasks.create_task(self._fill(pending, place))
            group = pending.group()
            await self._judge(group)
            self._finished(group)
        except SampleFailed as error:  # all of them are there, and cannot be judged together
            self._given_up(pending, error)
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
            self._begin()  # not only when the source has answered, which may take long
            self._room.set()
            self._news.set()

    async def _fill(self, pending: PendingGroup, place: int) -> None:
        """A sample for one place of the group; another seed replaces one that failed, up to `ATTEMPTS` times."""
        number = 0
        while True:
            attempt = pending.attempt(place, number, lambda: self.version, self.ledger, self._demand)
            self._lengths.started(attempt)
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

    def _finished(self, group: Group) -> None:
        if self._journal is not None:
            self._journal.add(group)
        self._take_in(group)

    def _take_in(self, group: Group) -> None:
        kept = self._batches.put(group)
        self._queue.observe(group.prompt, group.rewards.tolist(), "kept" if kept else "filtered")

    def _given_up(self, pending: PendingGroup, error: BaseException) -> None:
        where = error.where if isinstance(error, SampleFailed) else "request"
        self.ledger.failed(where)
        self.ledger.discarded(pending.tokens, f"failed_{where}")
        self._queue.observe(pending.prompt, (), "failed")

    def _interrupted(self, pending: PendingGroup, error: BaseException) -> None:
        """Nothing is wrong with the prompt: what there is of its group goes on after a restart."""
        saved = PendingGroup.of(pending.state_dict())
        self.ledger.discarded(pending.tokens - saved.tokens, "restart")
        self._again.append(saved)
        self.stop(error)

    # ---- accounts and checkpoints --------------------------------------------------------------------------------

    def measures(self) -> dict[str, float]:
        """Of the last batch: how many of its tokens have which staleness, and the length ratio."""
        return self._lengths.measure(self._held_samples()) | self._batches.measures()

    def counters(self) -> dict[str, int]:
        """Both accounts, of the whole run. LedgerError if one does not balance."""
        prompts, tokens = self._check(*self._batches.held())
        return self.ledger.prompts.metrics("drawn", prompts) | self.ledger.tokens.metrics("received", tokens)

    def _check(self, ready: int, ready_tokens: int) -> tuple[dict[str, int], dict[str, int]]:
        """What of prompts and tokens has no fate yet. LedgerError if one of them is unaccounted for."""
        left_out = {"too_long": self._queue.dropped, "bad": self._queue.bad}
        under_way = [*self._pending.values(), *self._again]
        prompts = {**left_out, "ready": ready, "under_way": len(under_way)}
        tokens = {"ready": ready_tokens, "under_way": sum(pending.tokens for pending in under_way)}
        self.ledger.prompts.received = self._drawn + sum(left_out.values())
        self.ledger.prompts.check("drawn", prompts)
        self.ledger.tokens.check("received", tokens)
        return prompts, tokens

    async def state_dict(self, trained: bool) -> dict[str, Any]:
        """All of it; see `RolloutService.state_dict`. LedgerError if an account does not balance."""
        async with self._fetching:
            _, tokens = self._check(*self._batches.counted())
            ledger = copy.deepcopy(self.ledger)
            states = [pending.state_dict() for pending in in_order([*self._pending.values(), *self._again])]
            kept = sum(PendingGroup.of(state).tokens for state in states)
            ledger.discarded(tokens["under_way"] - kept, "restart")
            batches = self._batches.state_dict(trained, ledger)
            if self._journal is not None:
                self._journal.saved(batches["batches"])
            return {
                "version": self.version,
                "queue": self._queue.state_dict(),
                "pending": states,
                **batches,
                "recovered": self.recovered.state_dict(),
                "ledger": ledger.state_dict(),
                "length_ratio": self._lengths.state_dict(),
                "drawn": self._drawn,
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Before the first `resume`. UserError if the data has changed."""
        if self._pending or self.version >= 0:
            raise RuntimeError("load_state_dict must be called before the first resume")
        self._queue.load_state_dict(state["queue"])
        self._again = deque(PendingGroup.of(one) for one in state["pending"])
        self._batches.load_state_dict(state)
        self.ledger.load_state_dict(state["ledger"])
        self._lengths.load_state_dict(state["length_ratio"])
        self._drawn = int(state["drawn"])
        self.recovered.load(int(state["batches"]), state.get("recovered", ()))
        self._check(*self._batches.counted())
