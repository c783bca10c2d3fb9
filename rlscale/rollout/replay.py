"""Training again on what another run generated, without engines: for debugging the trainer alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Group
from rlscale.data.stored.stored_rollouts import StoredRollouts
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.rollout_stats import RolloutStats


class ReplayService:
    """Hands out the stored groups of iteration 1, 2, ... of a run (`rollout.replay`); a `Service` that needs no router.

    The batches are those that the run trained on, bit by bit, with its log-probs and weight versions.
    """

    def __init__(self, spec: RolloutSpec, folder: str) -> None:
        """UserError where nothing is stored in `folder`."""
        self._stored = StoredRollouts(Path(folder), "rollout.replay")
        self._next = 1
        self._samples = self._tokens = 0

    async def start(self, url: str, api_key: str | None = None) -> None:
        """There is nobody to connect to."""

    async def redirect(self, url: str) -> None:
        """Nobody is asked."""

    async def next_batch(self) -> list[Group]:
        """The groups of the next iteration. UserError where it is not stored, or the file is damaged."""
        groups = await asyncio.to_thread(self._stored.groups, self._next)
        self._next += 1
        samples = [sample for group in groups for sample in group.samples]
        self._samples += len(samples)
        self._tokens += sum(int(sample.loss_mask.sum()) for sample in samples)
        return groups

    async def pause(self) -> None:
        """Nothing is under way."""

    async def resume(self, version: int) -> None:
        """The groups are there whatever the weights are."""

    async def evaluate(self, version: int, name: str = "") -> EvalResult:
        """Refused: it takes engines."""
        raise UserError("rollout.replay has no engines to evaluate with; set eval.enabled=false")

    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        """Which iteration comes next; the last one again if it was not `trained` on."""
        return {"next": self._next - int(not trained and self._next > 1), "counters": self._counters()}

    async def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved."""
        self._next = int(state["next"])
        self._samples, self._tokens = (int(state["counters"][name]) for name in self._counters())

    async def stats(self) -> RolloutStats:
        """What was read so far."""
        return RolloutStats(self._counters(), [])

    async def close(self) -> None:
        """Nothing is held."""

    def _counters(self) -> dict[str, int]:
        return {"samples_replayed": self._samples, "tokens_replayed": self._tokens}
