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
"""How long other machines, and those that supervise servers, may take together to tell what their processes do."""


def stacks_of(actors: Sequence[Watched], here: str | None) -> dict[str, str]:
    """Stacks by the name of the process. `here`: Ray's id of this machine."""
    asked = {actor.name: actor.handle.stacks.remote() for actor in actors if actor.servers and not actor.stopped}
    found = _told([actor for actor in actors if not actor.stopped], here)
    read, servers = _read(actors, actors, here, asked)
    silent = [actor for actor in actors if actor.name in asked.keys() - servers.keys()]
    read |= _read(silent, actors, here, {})[0]
    for actor in actors:
        for pid, text in read[actor.name].items():
            if pid == actor.pid:
                found.setdefault(actor.name, text)
            else:
                found[f"process {pid} of {actor.name}"] = text
    for name, stacks in servers.items():
        found |= of_fleet(name, stacks)
    return found


def of_fleet(launcher: str, stacks: Mapping[str, str]) -> dict[str, str]:
    """Stacks by the names of servers, before which stands the fleet of their launcher: two may have an `engine-0`."""
    fleet = launcher.rpartition(": ")[0]
    return {f"{fleet}: {server}" if fleet else server: text for server, text in stacks.items()}


def _told(actors: Sequence[Watched], here: str | None) -> dict[str, str]:
    """What the actors themselves write down."""
    listening = Listening({actor.name: actor.log for actor in actors})
    for node in {actor.node for actor in actors}:
        pids = [actor.pid for actor in actors if actor.node == node]
        ask(pids) if node == here else on_machine(node, ask, pids)
    return listening.heard()


_Read = dict[str, Mapping[int, str]]
"""By the name of an actor what was read of its process and of those that descend from it, by process id."""


def _read(
    which: Sequence[Watched], actors: Sequence[Watched], here: str | None, asked: Mapping[str, Any]
) -> tuple[_Read, dict[str, Mapping[str, str]]]:
    """What is read of these of the `actors`, and what those answer that were `asked` of their servers.

    Of these only their own processes are read.
    """
    by_node = {node: [actor for actor in which if actor.node == node] for node in {actor.node for actor in which}}

    def of(node: str) -> tuple[list[int], list[int], list[int]]:
        alone = [actor.pid for actor in by_node[node] if actor.name in asked]
        return [one.pid for one in by_node[node]], [one.pid for one in actors if one.node == node], alone

    elsewhere = {node: on_machine(node, spied_families, *of(node)) for node in by_node if node != here}
    told = {here: spied_families(*of(here))} if here in by_node else {}
    answers = _answers([*elsewhere.values(), *asked.values()])
    told |= {node: answer for node, answer in zip(elsewhere, answers, strict=False) if answer is not None}
    read: _Read = {
        actor.name: told.get(node, {}).get(actor.pid, {}) for node, there in by_node.items() for actor in there
    }
    servers = zip(asked, answers[len(elsewhere) :], strict=True)
    return read, {name: stacks for name, stacks in servers if stacks is not None}


def _answers(refs: Sequence[Any]) -> list[Any]:
    """The answers to questions that were asked beside each other, None where there is none in time."""
    if refs:
        ray.wait(list(refs), num_returns=len(refs), timeout=_ANSWER_S)
    return [_answer(ref) for ref in refs]


def _answer(ref: Any) -> Any:
    """The answer to a question that was waited for, None where there is none."""
    with contextlib.suppress(RayError):
        return ray.get(ref) if ray.wait([ref], timeout=0)[0] else None
    return None
