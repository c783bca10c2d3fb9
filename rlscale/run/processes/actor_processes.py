"""The processes behind a run's actors: which are frozen (SIGSTOP), so that no answer comes, and what the others do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from rlscale.config.own_files import write_text
from rlscale.platform.stacks import doing
from rlscale.run.processes import ray_session
from rlscale.run.processes.stacks_of_actors import stacks_of
from rlscale.run.processes.watched import Watched, holds_open, on_machine, stopped_now
from rlscale.serve.pulse import Patience, stopped_of

_EVERY_S = 1.0
_ELSEWHERE_EVERY_S = 2.0


def kill_stopped(pids: Sequence[int]) -> None:
    """SIGKILL to those of the processes of this machine that a signal has stopped."""
    for pid in stopped_of(pids):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Frozen:
    """A process that has been stopped for some time."""

    name: str
    pid: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}) has been stopped for {self.seconds:.0f} s"


def told_apart(name: str, log: Path, taken: Collection[str]) -> str:
    """The name of an actor; one that is taken gets the folder of its log before it."""
    return f"{log.parent.name}: {name}" if name in taken else name


class Processes:
    """The actors of a run by their ids. Machines besides this one are asked by Ray, less often."""

    def __init__(
        self,
        here: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        rays_own: Callable[[Collection[int]], set[int]] = ray_session.own_processes,
    ) -> None:
        """`here`: Ray's id of this machine, if it is not to be asked.

        `rays_own`: what Ray has started here for this run, besides processes that are given and what they started.
        """
        self._rays_own = rays_own
        self._here = here
        self._clock = clock
        self._starting: list[Watched] = []
        self._actors: dict[str, Watched] = {}
        self._looked = clock()
        self._elsewhere: dict[str, tuple[Any, float]] = {}

    def add(self, name: str, log: Path, actor: Any, *, servers: bool = False) -> None:
        """Watch the process of an actor that has the method `whereabouts`; it may still be starting.

        A name that is taken gets the folder of its log before it. `servers`: it has the method `stacks`, too.
        """
        name = told_apart(name, log, {actor.name for actor in (*self._starting, *self._actors.values())})
        asked = actor.whereabouts.remote()
        self._starting.append(Watched(name, log, actor, asked, Patience(self._clock), servers))

    def frozen(self, waiting_for: Collection[str], seconds: float) -> Frozen | None:
        """One of the actors with these ids whose process has been stopped for so long."""
        if self._clock() - self._looked >= _EVERY_S:
            self._looked = self._clock()
            self._look()
        up = (self._actors[actor] for actor in waiting_for if actor in self._actors)
        starting = (actor for actor in self._starting if actor.awaited in waiting_for)
        late = next((one for one in (*up, *starting) if one.stopped and one.seconds >= seconds), None)
        return None if late is None else Frozen(late.name, late.pid, late.seconds)

    def end_frozen(self, among: Collection[Any] | None = None) -> None:
        """End those (of these actors) that are stopped now: they hear nothing that they are told."""
        self._meet()
        self._look_for_starting()
        for one in self._starting:
            if among is None or one.handle in among:
                kill_stopped(one.starters)
        actors = [actor for actor in self._actors.values() if among is None or actor.handle in among]
        for node in {actor.node for actor in actors}:
            there = {actor.pid: actor for actor in actors if actor.node == node}
            if node != self._here:
                on_machine(node, kill_stopped, list(there))
                continue
            for pid in stopped_of(list(there)):
                ray.kill(there[pid].handle)  # so that Ray expects its end
            kill_stopped(list(there))

    def forget(self, actors: Collection[Any], wait_s: float = 0.0) -> None:
        """These have been ended: watch them no more, and wait at most so long until those of this machine are gone."""
        self._meet()
        gone = [actor for actor in self._actors.values() if actor.handle in actors]
        self._actors = {identity: actor for identity, actor in self._actors.items() if actor not in gone}
        self._starting = [actor for actor in self._starting if actor.handle not in actors]
        pids = [actor.pid for actor in gone if actor.node == self._here]
        deadline = time.monotonic() + wait_s
        while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)

    def write_stacks(self, folder: Path) -> dict[str, str]:
        """Write what each process does into a file of `folder`; by its name the function that it is in.

        Those of the run's actors write it themselves. What does not answer, is no actor or is supervised by one is read
        from outside, where that may be; else it is missing.
        """
        self._meet()
        found = stacks_of(list(self._actors.values()), self._here)
        write_down(folder, found)
        return {name: what for name, stacks in found.items() if (what := doing(stacks)) is not None}

    def _look(self) -> None:
        self._meet()
        nodes = {actor.node for actor in self._actors.values()}
        for node in nodes:
            there = [actor for actor in self._actors.values() if actor.node == node]
            stopped = self._stopped_on_machine(node, [actor.pid for actor in there])
            for actor in there:
                actor.stopped = actor.stopped if stopped is None else actor.pid in stopped
                actor.seconds = actor.patience.look(actor.stopped)
        self._look_for_starting()

    def _look_for_starting(self) -> None:
        """Which of those that have not answered yet are stopped, as far as that is known: on this machine.

        One that has its log open is known by that. Before, any process of Ray's that nobody else is may be its own.
        """
        if not self._starting:
            return
        known = {actor.pid for actor in self._actors.values() if actor.node == self._here}
        stopped = [pid for pid in stopped_now() if pid not in known]
        nameless = self._rays_own(known).intersection(stopped) if stopped else set()
        for actor in self._starting:
            actor.starters = [pid for pid in stopped if holds_open(pid, actor.log)] or sorted(nameless)
            actor.stopped, actor.pid = bool(actor.starters), (actor.starters or [0])[0]
            actor.seconds = actor.patience.look(actor.stopped)

    def _meet(self) -> None:
        """Take in the actors whose processes are up by now."""
        if self._starting and self._here is None:
            self._here = ray.get_runtime_context().get_node_id()
        for actor in list(self._starting):
            if ray.wait([actor.asked], timeout=0)[0]:
                self._starting.remove(actor)
                actor.stopped, actor.seconds, actor.patience = False, 0.0, Patience(self._clock)
                with contextlib.suppress(RayError):  # it died, which whoever waits for it hears
                    identity, actor.node, actor.pid = ray.get(actor.asked)
                    self._actors[identity] = actor

    def _stopped_on_machine(self, node: str, pids: list[int]) -> list[int] | None:
        """Which of a machine's processes are stopped; None while that is not known anew."""
        if node == self._here:
            return stopped_of(pids)
        asked, when = self._elsewhere.get(node, (None, -_ELSEWHERE_EVERY_S))
        if self._clock() - when < _ELSEWHERE_EVERY_S or (asked is not None and not ray.wait([asked], timeout=0)[0]):
            return None
        self._elsewhere[node] = on_machine(node, stopped_of, pids), self._clock()
        with contextlib.suppress(RayError):  # the machine is gone, which whoever waits for an actor on it hears
            return None if asked is None else ray.get(asked)
        return None


def write_down(folder: Path, stacks: Mapping[str, str]) -> None:
    """Write the stacks of each process, by its name, into a file of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in stacks.items():
        write_text(folder / f"{_file_name(name)}.txt", text)


def _file_name(process: str) -> str:
    """A process's name without what a file's may not have: a title may be the path of its program."""
    return re.sub(r"[^\w.-]+", "-", process.replace(":", ""))
