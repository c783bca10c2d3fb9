"""The contract of a rollout service: a life of three iterations against simulated engines, saved and continued."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rlscale.config.composition.compose import compose
from rlscale.config.schema.simulator_config import SimulationConfig
from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.rollout.service_protocol import Service
from rlscale.rollout.state_encoding import saved_and_read
from rlscale.run.contracts.batch_checks import check_batch
from rlscale.run.contracts.methods import check_methods
from rlscale.run.contracts.recorded_engine import EngineAnswer, RecordedEngine
from rlscale.run.simulation.simulated_workload import rollout_spec
from rlscale.trainer.hook_contract.findings import Finding, Report, failed, reported

_KEY = "the key of the contract"
_SECONDS = 30.0
_MOMENT_S = 0.05
"""How long it is watched whether nothing happens."""
_OVERRIDES = (
    *("rollout.groups_per_iteration=3", "rollout.samples_per_group=2", "rollout.max_concurrent=1"),
    *("rollout.max_staleness=1", "cluster.placement=disaggregated", "rollout.on_sync=wait"),
    *("rollout.max_prompt_tokens=16", "rollout.max_response_tokens=24", "eval.prompts=3", "eval.samples_per_prompt=1"),
)
"""One request at a time: where generation is not paused there is always another one to come."""
_EVALUATED = 3


def check_service(
    target: type[Any], build: Callable[[RolloutSpec], Service], seconds: float = _SECONDS
) -> list[Finding]:
    """One finding per check of a service: its methods, then what it does between two simulated engines.

    `target` is the class; `build` makes a service of a specification with 3 groups of 2 samples, `on_sync=wait` and
    `max_staleness=1`. No call may take longer than `seconds`.
    """
    findings = check_methods(target, Service)
    if failed(findings):
        return findings
    with reported() as report, tempfile.TemporaryDirectory() as folder:
        spec = rollout_spec(compose(overrides=list(_OVERRIDES)), SimulationConfig(), 1, Path(folder))
        answers: set[EngineAnswer] = set()
        with RecordedEngine(_KEY, answers) as engine, RecordedEngine(_KEY, answers) as other:
            asyncio.run(_Life(report, build, spec, seconds).live(engine, other))
    return [*findings, *report.findings]


class _Life:
    """What a run does with a service, and what is seen of it."""

    def __init__(
        self, report: Report, build: Callable[[RolloutSpec], Service], spec: RolloutSpec, seconds: float
    ) -> None:
        self._report, self._build, self._spec, self._seconds = report, build, spec, seconds

    async def live(self, engine: RecordedEngine, other: RecordedEngine) -> None:
        """Two batches with an evaluation and a checkpoint between them, a third from another engine, the end."""
        service = await self._started(engine)
        try:
            await self._nothing_new(engine, "quiet", "no request before the first resume")
            first = await self._batch(service, engine, version=0)
            state = await self._state(service, trained=True)
            await self._pause(service, engine)
            await self._evaluate(service, version=0)
            second = await self._batch(service, engine, version=1)
            again = _prompts(first) & _prompts(second)
            self._report.add("once", "no prompt in two batches", not again, f"{sorted(again) or 'none'}")
            untrained = await self._state(service, trained=False)
            await self._stats(service)
            await self._redirect(service, engine, other)
        finally:
            await self._call("close", service.close)
        await self._nothing_new(other, "close", "no request after close")
        self._report.add("close", "no request after close", not other.busy, f"{other.busy} under way")
        await self._continued(engine, state, first, untrained, second)

    async def _started(self, engine: RecordedEngine, state: dict[str, Any] | None = None) -> Service:
        service = self._report.call("new", self._build, self._spec)
        await self._call("start", service.start, engine.url, _KEY)
        if state is not None:
            await self._call("load_state_dict", service.load_state_dict, state)
        return service

    async def _batch(self, service: Service, engine: RecordedEngine, version: int) -> list[Group]:
        """The batch that is generated once the engine has the weights of a version."""
        await asyncio.to_thread(engine.give, version)
        await self._call("resume", service.resume, version)
        groups = await self._call("next_batch", service.next_batch)
        check_batch(self._report, groups, self._spec, version, engine.answers)
        return groups

    async def _pause(self, service: Service, engine: RecordedEngine) -> None:
        await self._call("pause", service.pause)
        wanted = "no request under way when it returns, with on_sync=wait"
        self._report.add("pause", wanted, not engine.busy, f"{engine.busy} under way")
        await self._nothing_new(engine, "paused", "no request between pause and resume")

    async def _evaluate(self, service: Service, version: int) -> None:
        found = await self._call("evaluate", service.evaluate, version)
        wanted = f"an EvalResult of version {version} with {_EVALUATED} prompts, also while paused"
        right = isinstance(found, EvalResult) and (found.version, found.prompts) == (version, _EVALUATED)
        said = f"version {found.version}, {found.prompts} prompts" if isinstance(found, EvalResult) else f"{found!r}"
        self._report.add("evaluate", wanted, right, said[:80])

    async def _state(self, service: Service, trained: bool) -> dict[str, Any]:
        state = await self._call("state_dict", service.state_dict, trained)
        read: dict[str, Any] = self._report.call("state_dict, saved and read again", saved_and_read, state)
        return read

    async def _stats(self, service: Service) -> None:
        found = await self._call("stats", service.stats)
        right = isinstance(found, RolloutStats) and all(isinstance(count, int) for count in found.counters.values())
        self._report.add("stats", "a RolloutStats whose counters are whole numbers", right, f"{type(found).__name__}")

    async def _redirect(self, service: Service, engine: RecordedEngine, other: RecordedEngine) -> None:
        await self._pause(service, engine)
        await self._call("redirect", service.redirect, other.url)
        before = engine.asked
        await asyncio.to_thread(engine.give, 2)
        await self._batch(service, other, version=2)
        text = f"{engine.asked - before} at the old one, {other.asked} at the new one"
        right = engine.asked == before and other.asked > 0
        self._report.add("redirect", "all requests go to the new address", right, text)

    async def _continued(
        self,
        engine: RecordedEngine,
        state: dict[str, Any],
        first: list[Group],
        untrained: dict[str, Any],
        second: list[Group],
    ) -> None:
        """Two more services go on where the first one was saved: after a batch, and before one was trained on."""
        for read, version, trained in ((state, 1, True), (untrained, 1, False)):
            service = await self._started(engine, read)
            try:
                found = _prompts(await self._batch(service, engine, version))
            finally:
                await self._call("close", service.close)
            if trained:
                again = found & _prompts(first)
                text = f"{sorted(again)} again" if again else "others"
                self._report.add("resume", "no prompt again that was trained on", not again, text)
            else:
                wanted = _prompts(second)
                text = f"{sorted(found)} of {sorted(wanted)}"
                self._report.add("untrained", "the batch again that was not trained on", found == wanted, text)

    async def _nothing_new(self, engine: RecordedEngine, check: str, expected: str) -> None:
        before = engine.asked
        await asyncio.sleep(_MOMENT_S)
        self._report.add(check, expected, engine.asked == before, f"{engine.asked - before} requests")

    async def _call(self, where: str, call: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        return await self._report.awaited(where, self._seconds, call, *given)


def _prompts(groups: list[Group]) -> set[int]:
    return {group.prompt.index for group in groups}
