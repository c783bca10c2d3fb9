"""What the processes of servers are doing: of an engine its server, schedulers and detokenizer, and the router."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from rlscale.platform.stacks import Listening, ask
from rlscale.serve.process import ServerProcess
from rlscale.serve.pulse import families_of
from rlscale.serve.spied_stacks import spied_families


def stacks_of_servers(servers: Mapping[str, ServerProcess]) -> dict[str, str]:
    """The stacks of each process by its name, `engine-0 sglang::scheduler`.

    Read from outside; where that may not be, each that has promised to (`tell_stacks`) writes them to its server's log.
    """
    pids = {name: server.pid for name, server in servers.items() if server.pid is not None}
    read, families = spied_families(list(pids.values())), families_of(list(pids.values()))
    found = {}
    for name, server in servers.items():
        for pid in families[pids[name]] if name in pids else []:
            stacks = read[pids[name]].get(pid) or _asked(pid, server)
            if stacks is not None:
                found[_name(name, pids[name], pid)] = stacks
    return found


def _asked(pid: int, server: ServerProcess) -> str | None:
    """What the process writes to the log that it shares with others of its server: one is asked after another."""
    listening = Listening({"it": server.log})
    return listening.heard().get("it") if ask([pid]) else None


def _name(server: str, main: int, pid: int) -> str:
    """That of the server, with the title of the process where it is not the main one."""
    if pid == main:
        return server
    try:
        return f"{server} {psutil.Process(pid).cmdline()[0].split()[0]}"
    except (psutil.Error, IndexError):
        return f"{server} process {pid}"
