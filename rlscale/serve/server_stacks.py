"""What the processes of servers are doing: of an engine its server, schedulers and detokenizer, and the router."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from rlscale.platform.stacks import Listening, ask
from rlscale.serve.process import ServerProcess
from rlscale.serve.pulse import families_of, stopped_of
from rlscale.serve.spied_stacks import spied_families

_ASKED_S = 4.0
"""For how long the processes of a server are asked: whoever wants to know does not wait longer than 10 s for it all."""


def stacks_of_servers(servers: Mapping[str, ServerProcess]) -> dict[str, str]:
    """The stacks of each process by its name, `engine-0 sglang::scheduler`.

    Read from outside; where that may not be, each that has promised to (`tell_stacks`) writes them to its server's log.
    """
    pids = {name: server.pid for name, server in servers.items() if server.pid is not None}
    read, families = spied_families(list(pids.values())), families_of(list(pids.values()))

    def told(name: str) -> dict[str, str]:
        family, found = families[pids[name]], read[pids[name]]
        found = found | _asked([pid for pid in family if pid not in found], servers[name].log)
        return {title: found[pid] for pid, title in _titles(name, family).items() if pid in found}

    with ThreadPoolExecutor(len(pids) or 1) as pool:  # each server has a log of its own
        return {title: stacks for of_one in pool.map(told, pids) for title, stacks in of_one.items()}


def _asked(pids: Sequence[int], log: Path) -> dict[int, str]:
    """By process id what these write to the log that they share: one after another, so that nobody writes into another.

    One that is stopped is not asked, it would answer once it goes on. Nobody is asked once the time is over.
    """
    found, stopped, give_up = {}, stopped_of(pids), time.monotonic() + _ASKED_S
    for pid in pids:
        if pid in stopped or time.monotonic() > give_up:
            continue
        listening = Listening({"it": log})
        stacks = listening.heard().get("it") if ask([pid]) else None
        if stacks is not None:
            found[pid] = stacks
    return found


def _titles(server: str, family: Sequence[int]) -> dict[int, str]:
    """Names of the processes of a server: its own for the first, the main one; others have their title behind it.

    And their id where one before them has the same.
    """
    titles: dict[int, str] = {}
    for pid in family:
        title = f"{server} {_title(pid)}" if titles else server
        titles[pid] = f"{title} {pid}" if title in titles.values() else title
    return titles


def _title(pid: int) -> str:
    """What a process calls itself; the name of its program, without the folder, where it has not named itself."""
    try:
        return Path(psutil.Process(pid).cmdline()[0]).name.split()[0]
    except (psutil.Error, IndexError):
        return f"process {pid}"
