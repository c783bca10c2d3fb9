"""Where the trainer's ranks are: where the layout has them, or, once machines are gone for good, on what is left.

Then there are fewer copies of the model (data parallelism). How a copy is divided stays, and so do the batch and its
steps, so that what is computed is the same but for the order of sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlscale.config.checks import check
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.schema import Config
from rlscale.data.batches.rank_shard import RankShard
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.placement import Layout, Slot
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.sides.batching import divide_again
from rlscale.run.sides.rank_actors import RankActors
from rlscale.run.sides.recovery import Recoveries
from rlscale.trainer.trainer_spec import TrainerSpec

_LOOK_EVERY_S = 1.0
_FIRST = 0
"""The machine of the driver, or of router and rollout service: without it the run ends, and nobody is waited for."""


class RankPlaces:
    """Starts the ranks' processes, and knows how many copies of the model they are."""

    def __init__(
        self,
        layout: Layout,
        nodes: list[str],
        calls: Calls,
        logs: Path,
        config: Config,
        forks: Forks,
        recoveries: Recoveries | None = None,
    ) -> None:
        """`nodes` are kept up to date here, for others, too.

        `recoveries`: whether lost ranks are brought back, and on fewer machines; None: they are not.
        """
        self._layout, self._nodes, self._config = layout, nodes, config
        self.calls, self.recoveries = calls, recoveries
        self._logs, self._forks = logs, forks
        self._of_copy, self._all = Sizes.of(config).model_ranks, Sizes.of(config).data_parallel
        self._given_up: frozenset[str] = frozenset()  # machines that are waited for no more
        self.copies = self._all
        """Data-parallel ranks of those that were started last."""

    def new_actors(self) -> RankActors:
        """Start the processes of all ranks. UserError where there is no place for them."""
        slots, nodes = self._settled()
        copies = len(slots) // self._of_copy
        if copies > self.copies:
            self._note(f"the trainer's ranks have their machines again: {copies} data-parallel ranks")
        self.copies = copies
        self._nodes[:] = nodes  # whoever looks for a machine that is not in use sees which are
        layout = dataclasses.replace(self._layout, ranks=slots)
        return RankActors(layout, nodes, self.calls, self._logs, self._config, self._forks)

    def told(self, spec: TrainerSpec) -> TrainerSpec:
        """What ranks that are so many are told."""
        return spec if self.copies == self._all else dataclasses.replace(spec, data_parallel=self.copies)

    def dealt(self, refs: Sequence[Any]) -> Sequence[Any]:
        """References to one shard for each copy, where they are to those of another number of copies."""
        if len(refs) == self.copies:
            return refs
        host = self.calls.host
        return [host.put(shard) for shard in self.divided([host.get(ref) for ref in refs])]

    def divided(self, shards: list[RankShard]) -> list[RankShard]:
        """The same with the shards themselves."""
        return shards if len(shards) == self.copies else divide_again(shards, self._config, self.copies)

    def _settled(self) -> tuple[tuple[Slot, ...], list[str]]:
        """Slots and machines of all ranks, or of fewer, where other machines do not come in time."""
        host, used = self.calls.host, {slot.node for slot in self._layout.ranks}
        began, patience_s = host.clock(), self._config.run.recover_smaller_after_s
        waits = False
        while True:
            try:
                return self._layout.ranks, host.standing_in(self._nodes, used, self._config.cluster.gpus_per_node)
            except MachinesGone as short:
                may_shrink = self.recoveries is not None and self.recoveries.may_shrink
                if not may_shrink or patience_s is None or _FIRST in short.numbers:
                    raise
                gone = frozenset(self._nodes[number] for number in short.numbers)
                if gone <= self._given_up or host.clock() - began >= patience_s:
                    slots = self._on_what_is_left(short)
                    self._given_up |= gone
                    return slots, short.others
                if not waits:
                    self._note(f"a machine of the trainer's ranks is gone; waiting {patience_s:g} s for another one")
                waits = True
            self.calls.check_stop()
            host.sleep(_LOOK_EVERY_S)

    def _on_what_is_left(self, short: MachinesGone) -> tuple[Slot, ...]:
        """The slots of as many copies as there is room for, with a note. UserError where none can go on."""
        left = tuple(slot for slot in self._layout.ranks if slot.node not in short.numbers)
        why = f"one copy of the model takes {self._of_copy}"
        for copies in range(len(left) // self._of_copy, 0, -1):
            try:
                check(_with_copies(self._config, copies))
            except ConfigError as error:
                why = error.problems[0]
                continue
            if copies != self.copies:
                self._tell(copies)
            return left[: copies * self._of_copy]
        raise UserError(f"{short}; the {len(left)} ranks that there is room for cannot go on without it: {why}")

    def _note(self, what: str) -> None:
        if self.recoveries is not None:
            self.recoveries.note(what)

    def _tell(self, copies: int) -> None:
        self._note(
            "no machine came in the place of one that is gone (run.recover_smaller_after_s): going on with "
            f"{copies} of {self._all} data-parallel ranks, so that passes and steps take about "
            f"{self._all / copies:.1f} times as long; batches and steps are the same, results but for the order of sums"
        )


def _with_copies(config: Config, copies: int) -> Config:
    """The configuration with so many data-parallel ranks, of which no fewer need be possible."""
    parallel = dataclasses.replace(config.parallel, data=copies)
    run = dataclasses.replace(config.run, recover_smaller_after_s=None)
    fewer = dataclasses.replace(config, parallel=parallel, run=run)
    fewer.freeze()
    return fewer
