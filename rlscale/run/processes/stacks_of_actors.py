"""The stacks of all processes of a run: of its actors, of what descends from them, of the servers that they supervise.

Actors write theirs down when they are asked. What does not answer, or is no actor, is read from outside, where that may
be (`serve/spied_stacks.py`). One that can neither be asked nor read is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from rlscale.platform.stacks import Listening, ask
from rlscale.run.processes.watched import Watched, on_machine
from rlscale.serve.spied_stacks import spied_families

_ANSWER_S = 10.0
"""How long other machines, and those that supervise servers, may take to tell what their processes do."""


def stacks_of(actors: Sequence[Watched], here: str | None) -> dict[str, str]:
    """Stacks by the name of the process. `here`: Ray's id of this machine."""
    asked = {actor.name: actor.handle.stacks.remote() for actor in actors if actor.servers and not actor.stopped}
    found = _told([actor for actor in actors if not actor.stopped], here)
    read = _read(actors, here)
    servers = {name: stacks for name, ref in asked.items() if (stacks := _answer(ref)) is not None}
    for actor, stacks in read:
        for pid, text in stacks.items():
            if pid == actor.pid:
                found.setdefault(actor.name, text)
            elif actor.name not in servers:  # who tells its servers' by their names
                found[f"process {pid} of {actor.name}"] = text
    for name, stacks in servers.items():
        of_fleet = name.rpartition(": ")[0]  # two fleets may have an engine of the same name
        found |= {f"{of_fleet}: {server}" if of_fleet else server: text for server, text in stacks.items()}
    return found


def _told(actors: Sequence[Watched], here: str | None) -> dict[str, str]:
    """What the actors themselves write down."""
    listening = Listening({actor.name: actor.log for actor in actors})
    for node in {actor.node for actor in actors}:
        pids = [actor.pid for actor in actors if actor.node == node]
        ask(pids) if node == here else on_machine(node, ask, pids)
    return listening.heard()


def _read(actors: Sequence[Watched], here: str | None) -> list[tuple[Watched, Mapping[int, str]]]:
    """By actor what is read of its process and of those that descend from it, by process id."""
    by_node = {node: [actor for actor in actors if actor.node == node] for node in {actor.node for actor in actors}}
    pids = {node: [actor.pid for actor in there] for node, there in by_node.items()}
    elsewhere = {node: on_machine(node, spied_families, pids[node], pids[node]) for node in by_node if node != here}
    told = {here: spied_families(pids[here], pids[here])} if here in by_node else {}
    told |= {node: _answer(ref) or {} for node, ref in elsewhere.items()}
    return [(actor, told[node].get(actor.pid, {})) for node, there in by_node.items() for actor in there]


def _answer(ref: Any) -> Any:
    """The answer to a question, None where there is none in time."""
    with contextlib.suppress(RayError):
        return ray.get(ref) if ray.wait([ref], timeout=_ANSWER_S)[0] else None
    return None
