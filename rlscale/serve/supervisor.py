"""Starts the servers of one machine, notices when one dies, starts it again, ends them all.

Plain blocking Python, safe to call from several threads; the run wraps one into a Ray actor per machine.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.platform.ports import free_port
from rlscale.serve.addresses import url_of
from rlscale.serve.engine_launcher import EngineLauncher, EngineSite, SglangLauncher
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.http import call, told
from rlscale.serve.process import GuardedProcess, ServerProcess
from rlscale.serve.pulse import Activity, Pulse, Spells, answers, compiles, families_of, stopped_of
from rlscale.serve.readiness import what_went_wrong
from rlscale.serve.router import RouterClient, router_command, router_options
from rlscale.serve.server_spec import ServerSpec, base_environment
from rlscale.serve.server_stacks import stacks_of_servers
from rlscale.serve.standstill import Standstill, ask_engine

PORT_ATTEMPTS = 3
ROUTER = "router"
DIED = "died"
"""What `down` says of a server that ended."""
_ROUTER_PULSE = "/liveness"
"""What is asked of the router to hear whether it is there; of an engine see `ask_engine`."""
_BUSY_FACTOR = 10
"""How many times as long a server may be silent, or stand still, while it computes."""
_SPELL_FACTOR = 4
"""How many times as long as ever before an engine may compute without a pass, once it made one."""
_ANSWER_S = 60.0
"""How long one such question is out."""
_ROUTER_ANSWERS_S = 10.0
"""How long a router may take to answer what it is told by way of its machine's supervisor."""
_LINES = 100
"""Lines of the log of a server that ended by itself which go into the run's error.log."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Quiet:
    """For how many seconds a server has not answered, has given no tokens, and has made no pass besides."""

    silence: float
    still: float
    idle: float

    @property
    def seconds(self) -> float:
        """For how long something has not come from it that should."""
        return max(self.silence, self.still)

    @property
    def without_a_pass(self) -> float:
        """For how long nobody knows of a pass."""
        return max(self.silence, self.idle)

    def __str__(self) -> str:
        did = "did not answer" if self.silence >= self.still else "gave none of its requests a token"
        return f"{did} for {self.seconds:.0f} s"


@dataclass
class _Entry:
    """One server: how it is started on a given port, and the process that runs now."""

    launch: Callable[[int], ServerProcess]
    healthy: Callable[[str], bool]
    host: str
    timeout_s: float
    port: int | None
    process: ServerProcess | None = None
    started: bool = False
    pulse: Pulse | None = None
    does_all: bool = False
    """Whether it is an engine whose requests wait for no other one."""
    only_answers: bool = False
    """Whether it has nothing longer to do than to answer, as the router, and so needs to have made no passes."""
    standstill: Standstill = field(default_factory=Standstill)
    activity: Activity | None = None
    """Of its processes, while it is silent, or stands still, for too long."""
    spells: Spells = field(default_factory=Spells)
    """In which it made no pass."""
    computed: bool = False
    """Whether it is to be replaced although it computes."""
    doubted: bool = False
    """Whether it was, once. It has longer then: its passes may be that long."""

    @property
    def pid(self) -> int:
        """Of its process; 0, which nobody has, where there is none."""
        return 0 if self.process is None or self.process.pid is None else self.process.pid

    def look(self, loading: bool) -> _Quiet:
        """How quiet it is now; while it takes weights that tells nothing of its passes."""
        silence = self.pulse.silence() if self.pulse is not None else 0.0
        quiet = _Quiet(silence, self.standstill.seconds(), self.standstill.without_a_pass())
        if loading:
            self.spells.forgive()
        else:
            self.spells.heed(quiet.without_a_pass)
        return quiet

    def is_stuck(self, family: Sequence[int], quiet: _Quiet, silent_s: float, loading: bool) -> bool:
        """Whether one that is quiet was stopped, does nothing, or computes and gets nowhere; see `Supervisor.down`."""
        self.activity = self.activity or Activity()
        idle, seconds = self.activity.is_idle(family), quiet.without_a_pass
        if stopped_of(family):
            return True
        if loading or seconds < silent_s:
            return False
        worked = self.only_answers or self.standstill.worked
        knows = worked and not self.doubted and not self.activity.starves
        enough = max(silent_s, _SPELL_FACTOR * self.spells.longest)
        self.computed = knows and seconds >= enough and not compiles(family)
        return idle or self.computed or seconds >= _BUSY_FACTOR * silent_s


class Supervisor:
    """The servers of one machine. They die with the process that holds this object, also by `kill -9`.

    Logs are `<log_folder>/<name>.log`; every other file of a server is below `scratch`. `api_key` protects engines and
    router and travels to them by pipe only.
    """

    def __init__(
        self,
        log_folder: Path,
        scratch: Path,
        api_key: str,
        host: str = "127.0.0.1",
        pick_port: Callable[[str, int | None], int] = free_port,
        fork_server: str | None = None,
        engine: Callable[[ServerSpec, EngineSite], EngineLauncher] = SglangLauncher,
        stopped_s: float = 20.0,
    ) -> None:
        """`fork_server`: address of one that somebody else owns; without it CPU engines get one of this object's.

        `engine` makes the launcher of an engine. `stopped_s`: how long a server that starts may be stopped (SIGSTOP).
        """
        self.log_folder = log_folder
        self.scratch = scratch
        self.host = host
        self._api_key = api_key
        self._pick_port = pick_port
        self._engine = engine
        self._stopped_s = stopped_s
        self._engines = EngineProcesses(scratch / "tmp", api_key, fork_server)
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def start_engine(self, spec: ServerSpec) -> str:
        """Start one engine and wait until it is healthy; its base URL.

        UserError with the end of its log if it dies or is not healthy in time.
        """
        site = EngineSite(self._log_of(spec.name), self.scratch, self._api_key, self._engines)
        engine = self._engine(spec, site)
        entry = _Entry(engine.launch, engine.healthy, spec.host, spec.start_timeout_s, spec.port)
        entry.does_all = spec.role is Role.regular
        return self._start(spec.name, entry)

    def start_router(self, options: Mapping[str, Any] | None = None, timeout_s: float = 60.0) -> str:
        """Start the router without workers (`RouterClient.add` gives it some); its base URL. Errors as for engines."""
        router_options(options or {}, self.host, 0, 0)

        def launch(port: int) -> ServerProcess:
            arguments = router_options(options or {}, self.host, port, free_port("127.0.0.1"))
            text = json.dumps({"options": arguments, "api_key": self._api_key})
            environment = {**base_environment(), "NO_COLOR": "1"}
            return GuardedProcess(router_command(), environment, text, self._log_of(ROUTER), self.scratch / "tmp")

        def healthy(url: str) -> bool:
            call(url, "/liveness", None, timeout=2.0)
            return "workers" in told(url, "/workers", self._api_key, timeout=5.0)

        return self._start(ROUTER, _Entry(launch, healthy, self.host, timeout_s, None, only_answers=True))

    def add_worker(self, router: str, url: str, role: Role) -> None:
        """The router at that URL of this machine, which nobody else reaches, is to send an engine requests; CallError.

        Nobody waits here until it does, as others want to be answered, too: see `worker_is_healthy`.
        """
        self._router(router).begin_add(url, role)

    def remove_worker(self, router: str, url: str) -> bool:
        """It is to send the engine nothing more; CallError. Whether that one was on its list."""
        return self._router(router).begin_remove(url)

    def worker_is_healthy(self, router: str, url: str) -> bool | None:
        """Whether it sends the engine requests, None where that one is not on its list; CallError."""
        return self._router(router).healthy(url)

    def _router(self, url: str) -> RouterClient:
        return RouterClient(url, self._api_key or None, _ROUTER_ANSWERS_S)

    def dead(self) -> list[str]:
        """Names of the servers that ended without being told to."""
        with self._lock:
            processes = {name: entry.process for name, entry in self._entries.items()}
        return [name for name, process in processes.items() if process and process.exit_code() is not None]

    def down(self, silent_s: float, loading: bool = False) -> dict[str, str]:
        """What is wrong with a server, by its name: it ended without being told to, or has been silent for so long.

        So is an engine that answers, for so long has given no token to any of its requests, and made no pass, where it
        tells. One that computes may only have a long pass: it counts once it has computed four times as long as ever
        before without one (the router: without an answer), ten times `silent_s` at the latest. It has the latter in any
        case if it was not seen to make a pass yet, compiles, has less than half a core, or was replaced for this
        before. While engines are `loading`
        weights, which may wait for the network, only one that a signal has stopped counts. So does only time in which
        this is called again and again.
        """
        found = dict.fromkeys(self.dead(), DIED)
        with self._lock:
            entries = {name: entry for name, entry in self._entries.items() if name not in found}
        suspects = {}
        for name, entry in entries.items():
            quiet = entry.look(loading)
            if quiet.seconds < silent_s:
                entry.activity = None
            else:
                suspects[name] = quiet
        families = families_of([entries[name].pid for name in suspects])
        for name, quiet in suspects.items():
            if entries[name].is_stuck(families[entries[name].pid], quiet, silent_s, loading):
                found[name] = str(quiet)
        return found

    def stacks(self) -> dict[str, str]:
        """What the processes of the servers do: the stacks of each by its name, `engine-0 sglang::scheduler`."""
        with self._lock:
            entries = {name: entry.process for name, entry in self._entries.items()}
        return stacks_of_servers({name: process for name, process in entries.items() if process is not None})

    def restart(self, name: str, why: str = "ended") -> str:
        """End that server if it still runs and start it again as it was, on its old port if that is free; its URL.

        An engine comes back with the weights of its model folder; the router without workers.
        """
        with self._lock:
            entry = self._entries[name]
        entry.pulse, entry.standstill = None, Standstill()  # nobody asks it until it has started again
        entry.doubted, entry.activity, entry.spells = entry.doubted or entry.computed, None, Spells()
        if entry.process:
            _log.error("%s %s. The end of %s:\n%s", name, why, entry.process.log, entry.process.log_tail(_LINES))
            entry.process.stop()
        return self._start(name, entry)

    def end(self, name: str) -> None:
        """End that server, which counts as one that died: it is to be restarted. Nothing where there is none."""
        with self._lock:
            entry = self._entries.get(name)
        if entry is not None and entry.process is not None:
            entry.pulse = None
            entry.process.stop()

    def forget(self, name: str) -> None:
        """End that server for good."""
        with self._lock:
            entry = self._entries.pop(name, None)
        if entry is not None and entry.process is not None:
            entry.process.stop()

    def stop(self) -> None:
        """End all servers and wait until they are gone (a second or two). Nothing can be started afterwards."""
        with self._lock:
            self._stopped = True
            processes = [entry.process for entry in self._entries.values() if entry.process]
        with ThreadPoolExecutor(max(1, len(processes))) as pool:
            list(pool.map(lambda process: process.stop(), processes))
        self._engines.stop()
        with self._lock:
            self._entries.clear()

    def _question(self, name: str, url: str, entry: _Entry) -> Callable[[], None]:
        key = self._api_key or None
        if name == ROUTER:
            return lambda: answers(url, _ROUTER_PULSE, key, _ANSWER_S)
        entry.standstill = standstill = Standstill()
        return lambda: ask_engine(url, key, _ANSWER_S, standstill, alone=not entry.does_all)

    def _log_of(self, name: str) -> Path:
        return self.log_folder / f"{name}.log"

    def _launched(self, name: str, entry: _Entry, port: int) -> ServerProcess:
        """The new process of an entry. Not under the lock: an engine may have to wait until SGLang is imported."""
        with self._lock:
            stopped = self._stopped
        process = None if stopped else entry.launch(port)
        with self._lock:
            if process is not None and not self._stopped:
                entry.process = process
                self._entries[name] = entry
                return process
        if process is not None:
            process.stop()
        raise UserError(f"{name} was to be started while the run was ending")

    def _start(self, name: str, entry: _Entry) -> str:
        """Launch until healthy; on a port that somebody took in between, again on another."""
        for attempt in range(PORT_ATTEMPTS):
            entry.port = self._pick_port(entry.host, entry.port)
            url = url_of(entry.host, entry.port)
            process = self._launched(name, entry, entry.port)
            problem = what_went_wrong(process, partial(entry.healthy, url), entry.timeout_s, self._stopped_s)
            if problem is None:
                entry.started = True
                entry.pulse = Pulse(self._question(name, url, entry))
                return url
            tail = process.log_tail(40)
            whole = process.log_tail(_LINES)
            process.stop()
            if attempt + 1 < PORT_ATTEMPTS and "address already in use" in tail.lower():
                entry.port = None
                continue
            break
        if not entry.started:  # one that ran before stays on the list of the dead and can be tried again
            with self._lock:
                self._entries.pop(name, None)
        _log.error("%s did not start: %s. The end of %s:\n%s", name, problem, process.log, whole)
        raised = process.last_exception()
        if raised is not None:
            raise UserError(f"{name} did not start: {raised}. Its whole output is in {process.log}")
        raise UserError(f"{name} did not start: {problem}. End of {process.log}:\n{process.log_tail()}")
