"""The engines of a run and the router before them: started on their machines, watched, and mended when one dies."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from rlscale.config.derived.speculation_options import draft_options
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.engine_group_config import Role
from rlscale.data.folders.model_folder import find_served
from rlscale.run.disk.key_file import read_key
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import Layout
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.sides.engine_records import Down, Engine
from rlscale.run.sides.engine_specs import engine_specs, router_settings
from rlscale.run.sides.given_engine import GivenEngine
from rlscale.run.sides.healing import Healing
from rlscale.run.sides.launchers import LOOPBACK, Supervised, end_launchers, start_launcher
from rlscale.run.sides.restart_budget import RestartBudget
from rlscale.run.sides.router_elsewhere import RouterElsewhere, turns
from rlscale.serve.http import CallError
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import RouterClient, WorkerList, add_at_once, at_once, router_options
from rlscale.serve.supervisor import ROUTER

_START = "cluster.start_timeout_s"
_LOOKED_AT_S = 120.0
"""How long an engine that somebody else started may take for all that it is asked before it is used."""
_LETS_GO_S = 15.0
"""How long a router may take to answer, and as long again to do it, where it is to send an engine nothing more."""

MEMORY = ("kv_cache", "weights")
"""What engines give up. Asked for no tag in particular SGLang would release its CUDA graphs, too."""


@dataclass
class Engines:
    """The fleet that serves a model: the policy, or one beside it. `launch` starts it without waiting, `ready` waits.

    `config` is the run's, with what is the fleet's own in `rollout` and `model`.
    """

    config: Config
    layout: Layout
    nodes: list[str]
    calls: Calls
    logs: Path
    scratch: Path
    note: Callable[[str], None]
    forks: Forks = field(default_factory=Forks)
    """What the processes of engines are forked from."""
    reserved: frozenset[int] = frozenset()
    """Machines whose GPUs another fleet of the run reserved already against the cluster's other jobs."""
    section: str = "rollout"
    """Where its keys are, for messages."""
    trained_on: bool = True
    """Whether its engines tell all that training asks for; those of the evaluation do, as the policy's."""
    restarted_with: str = "the current weights"
    """What an engine has that was started again, for a note."""
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    router_url: str = ""
    restarts: int = 0
    budget: RestartBudget = field(default_factory=RestartBudget)
    """How often its servers may still be started again."""
    keeps_apart: bool = False
    """Whether it began with engines that keep their cache under new weights (`rlscale.rollout.engines.kept_cache`)."""
    started_from: str | None = None
    """The folder that the engines start from."""
    _engines: list[Engine] = field(default_factory=list)
    _launchers: dict[int, Any] = field(default_factory=dict)
    _turn: BoundedSemaphore = field(default_factory=turns)

    @property
    def urls(self) -> list[str]:
        """Addresses of the engines themselves (weights and control go there; generation goes through the router)."""
        return [engine.url for engine in self._engines]

    def role_of(self, url: str) -> Role:
        """What the engine at that address does with a request."""
        return next(engine.role for engine in self._engines if engine.url == url)

    @property
    def restarts_of(self) -> dict[str, int]:
        """How often engines were started again, by address; only those that were."""
        return {engine.url: engine.restarts for engine in self._engines if engine.restarts}

    @property
    def ranks(self) -> list[int]:
        """Tensor-parallel ranks of each engine."""
        return [1 if engine.spec is None else engine.spec.tensor_parallel for engine in self._engines]

    @property
    def machines(self) -> frozenset[int]:
        """Machines whose GPUs are reserved, once it was launched: its own, and those that another fleet reserved."""
        return self.reserved | self._launchers.keys()

    def launch(self, model_path: str) -> None:
        """Begin to start every engine and the router. UserError where one that somebody else started is of no use."""
        self.started_from = model_path
        rollout = self.config.rollout
        router = router_settings(self.config)
        router_options(router, LOOPBACK, 0, 0)  # refused before anything starts
        if rollout.engine_key_file is not None:
            self.api_key = read_key(rollout.engine_key_file, f"{self.section}.engine_key_file")
        elif rollout.engine_urls:
            self.api_key = ""
        for url in rollout.engine_urls:
            self.meet(url.rstrip("/"))  # before anything waits for anything
        home = self._launcher(0)
        if rollout.engine_urls:
            self._engines = [Engine(None, home, url.rstrip("/")) for url in rollout.engine_urls]
        slots = () if rollout.engine_urls else self.layout.engines
        draft = rollout.speculation.draft if slots else None
        if draft is not None:
            own = draft_options(rollout.sglang)
            draft = str(find_served(draft, "rollout.speculation.draft", own, need_tokenizer=False))
        specs = engine_specs(self.config, slots, model_path, draft, trained_on=self.trained_on)
        for slot, spec in zip(slots, specs, strict=True):
            launcher = self._launcher(slot.node)
            self._engines.append(Engine(spec, launcher, starting=launcher.call.remote("start_engine", spec)))
        self._router = home.call.remote("start_router", router)

    def ready(self) -> None:
        """Wait until all engines are healthy and the router knows them."""
        timeout = self.config.cluster.start_timeout_s
        started = [engine for engine in self._engines if engine.starting is not None]
        urls = self.calls.wait(
            [engine.starting for engine in started],
            "engine start",
            timeout_s=timeout + 10,
            limit=_START,
            heed_stop=True,
        )
        for engine, url in zip(started, urls, strict=True):
            engine.url, engine.starting = url, None
        self.router_url = self.calls.one(self._router, "router start", timeout_s=timeout, limit=_START, heed_stop=True)
        for engine in self._engines:
            self._join(engine)

    def down(self, loading: bool = False) -> list[Down]:
        """Servers that ended without being told to, or do not answer any more; the router first.

        Silence counts from one look to the next: look often. `loading`: engines take weights now (`Supervisor.down`).
        """
        launchers, patience_s = list(self._launchers.values()), self.calls.patience_s
        asked = [launcher.call.remote("down", patience_s, loading) for launcher in launchers]
        answers = zip(launchers, self.calls.wait(asked, "engine check"), strict=True)
        found = [Down(launcher, name, why) for launcher, told in answers for name, why in told.items()]
        return sorted(found, key=lambda one: one.name != ROUTER)

    def down_among(self, urls: Sequence[str], loading: bool = False) -> list[Down]:
        """Of the servers that are down the engines at these URLs."""
        return [one for one in self.down(loading) if one.name != ROUTER and self.named(one.name).url in urls]

    def down_within(self, seconds: float, urls: Sequence[str] | None = None) -> bool:
        """Wait up to so long for a server (of the engines at `urls`) to be seen down; not once the run is to end."""
        give_up = time.monotonic() + seconds
        while not (self.down() if urls is None else self.down_among(urls)):
            if self.calls.stopping or time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        return True

    def heal(self, give_weights: Callable[[list[str]], None], redirect: Callable[[str], None]) -> None:
        """Restart engines and the router where they are down, and let them work again.

        `give_weights(urls)` gives a new engine the current weights before the router knows it; `redirect(url)` tells
        the rollout where the router is now. A restart that fails is tried again at the next call.
        Raises RunFailed when one needed more than `cluster.engine_restarts` restarts within an hour, StopRequested
        where one would be needed and the run is to end.
        """
        Healing(self, give_weights, redirect).run()

    def withdraw(self, urls: Sequence[str]) -> None:
        """Let the router send these engines nothing more. CallError, soon: it may be stuck as they are."""
        router = self._router_client()
        router.timeout = _LETS_GO_S
        at_once(router.remove, urls)

    def admit(self, urls: Sequence[str], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let the router send requests to these engines, too. `meanwhile` runs until it does, and may give it up."""

        def look() -> dict[str, UserError]:
            meanwhile()
            return {}

        for error in self.admitted(urls, look).values():
            raise error

    def admitted(self, urls: Sequence[str], look: Callable[[], dict[str, UserError]]) -> dict[str, UserError]:
        """The same of each alone: which of them the router does not know, and why. `look`: see `add_at_once`."""
        engines = {engine.url: engine for engine in self._engines if engine.url in urls}
        return add_at_once(lambda url, meanwhile: self._join(engines[url], meanwhile), list(engines), look)

    @property
    def members(self) -> list[Engine]:
        """The engines, in their order."""
        return list(self._engines)

    def named(self, name: str) -> Engine:
        """The engine of that name that the run itself started."""
        return next(engine for engine in self._engines if engine.spec is not None and engine.spec.name == name)

    @property
    def gave_memory(self) -> bool:
        """Whether some engine cannot generate, because it gave memory to the trainer."""
        return any(engine.released for engine in self._engines)

    def release_memory(self, tags: Sequence[str] = MEMORY, *, of_the_living: bool = False) -> None:
        """Let the engines, idle now, give device memory to the trainer (GPU, colocated), where they have not yet.

        `of_the_living`: those that are down are not asked, and one that fails hinders no other. They are ended instead,
        as one that is only stopped keeps what it has, and mended later.
        """
        asked = self._living() if of_the_living else self._engines
        keep = [engine for engine in self._engines if engine not in asked]
        for engine in asked:
            held = [tag for tag in tags if tag not in engine.released]
            if held:
                try:
                    self._receiver(engine.url).release_memory(held)
                    engine.released.update(held)
                except CallError:
                    if not of_the_living:
                        raise
                    keep.append(engine)
        self._end([engine.spec.name for engine in keep if engine.spec is not None])

    def _end(self, names: Sequence[str]) -> None:
        """End these engines, which count as dead from then on."""
        ending = [self.named(name).launcher.call.remote("end", name) for name in names]
        for name, ended in zip(names, ending, strict=True):
            self.calls.one(ended, f"end of {name}")
            self.note(f"{name} does not give its memory to the trainer, and was ended")

    def resume_memory(self, tags: Sequence[str], *, of_the_living: bool = False) -> None:
        """Let the engines take device memory back: that of "weights" or of the "kv_cache", where they gave it up.

        An engine that is asked for memory it has ends: SGLang removes the tag from a set that does not hold it.
        `of_the_living`: as above.
        """
        for engine in self._living() if of_the_living else self._engines:
            released = [tag for tag in tags if tag in engine.released]
            if released:
                with suppress(CallError) if of_the_living else nullcontext():
                    self._receiver(engine.url).resume_memory(released)
                    engine.released.difference_update(released)

    def _living(self) -> list[Engine]:
        """Those that are not down."""
        gone = {one.name for one in self.down()}
        return [engine for engine in self._engines if engine.spec is None or engine.spec.name not in gone]

    def meet(self, url: str) -> None:
        """Make sure of an engine that somebody else started. UserError if it is of no use to this run."""
        notes: list[str] = []
        met = GivenEngine(self._receiver(url), self.api_key or None, self.section, notes.append)

        def look() -> bool:
            """Whether requests have to be kept apart by their weights."""
            if not self.trained_on:
                met.check_served(self.started_from)
                return False
            exact = met.check_trained_on(self.config, apart=not self.router_url or self.keeps_apart)
            met.check_architecture(self.started_from)
            return not exact

        self.keeps_apart |= self.calls.aside(look, f"{self.section}.engine_urls: {url}", _LOOKED_AT_S)
        for note in notes:
            self.note(note)

    def take_in(self, url: str, give_weights: Callable[[list[str]], None]) -> None:
        """Take an engine that somebody else started into a run that goes on. UserError where it takes no weights."""
        engine = Engine(None, self._launcher(0), url)
        self._engines.append(engine)
        try:
            give_weights([url])
            self._join(engine)
        except UserError:
            self._engines.remove(engine)
            raise

    def let_go(self, url: str) -> None:
        """An engine belongs to the run no more, and is asked nothing more; one that the run started ends."""
        (engine,) = [one for one in self._engines if one.url == url]
        self._engines.remove(engine)
        if engine.spec is not None:
            self.calls.one(engine.launcher.call.remote("forget", engine.spec.name), f"end of {engine.spec.name}")

    @property
    def guests(self) -> list[str]:
        """Addresses of those of the engines that somebody else started."""
        return [engine.url for engine in self._engines if engine.spec is None]

    @property
    def fewest(self) -> int:
        """Engines without which the run does not go on."""
        least = self.config.rollout.engines_at_least
        return self.config.rollout.engine_count if least is None else least

    def close(self) -> None:
        """End every server that this run started."""
        end_launchers(self.calls, self._launchers.values())
        self._launchers = {}

    def _launcher(self, node: int) -> Any:
        if node not in self._launchers:
            servers = Supervised(self.logs, self.scratch, self.api_key, self.forks.engines, self.reserved)
            self._launchers[node] = start_launcher(self.calls, self.config, node, self.nodes[node], servers)
        return self._launchers[node]

    def _join(self, engine: Engine, meanwhile: Callable[[], None] = lambda: None) -> None:
        """The router sends it requests from now on."""
        self._router_client().add(engine.url, role=engine.role, meanwhile=meanwhile)
        engine.away = False

    def _router_client(self) -> WorkerList:
        """What talks to the router, which listens on its own machine alone: the rollout service is there, too."""
        if self.calls.host.is_here(self.nodes[0]):
            return RouterClient(self.router_url, self.api_key or None)
        return RouterElsewhere(self.calls.host, self._launchers[0], self.router_url, self._turn)

    def _receiver(self, url: str) -> EngineReceiver:
        return EngineReceiver(url, self.api_key or None, self.config.weights.timeout_s)
