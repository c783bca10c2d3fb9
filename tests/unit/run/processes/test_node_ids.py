"""Which machines of a Ray cluster a run takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import worker

from rlscale.config.errors import UserError
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.ray_session import gone, node_ids, present, standing_in
from rlscale.run.processes.run_failed import RayDied


def node(name: str, gpus: int = 0, alive: bool = True) -> dict:
    return {"NodeID": name, "Alive": alive, "Resources": {"GPU": float(gpus)} if gpus else {}}


@pytest.fixture(autouse=True)
def raylet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """What listens in the place of this machine's raylet, in a cluster of three machines."""
    nodes = [node("b", 8), node("head"), node("a", 8), node("gone", 8, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "head"))
    path = os.path.relpath(tmp_path / "raylet")
    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(raylet_socket_name=path))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield listening


def test_this_machine_comes_first():
    assert node_ids(2, 0) == ["head", "a"]


def test_a_head_without_gpus_is_no_machine_of_a_gpu_run():
    assert node_ids(2, 8) == ["a", "b"]


def test_too_few_machines_are_an_error():
    with pytest.raises(
        UserError, match=r"cluster\.nodes=3, but the Ray cluster has 2 with 8 GPUs \(cluster\.gpus_per_node\)"
    ):
        node_ids(3, 8)


def test_a_machine_with_fewer_gpus_than_the_layout_counts_on_is_left_out():
    with pytest.raises(UserError, match=r"cluster\.nodes=2, but the Ray cluster has 0 with 9 GPUs"):
        node_ids(2, 9)


def test_another_machine_stands_in_for_one_that_is_gone_where_ranks_are():
    assert standing_in(["a", "gone", "lost"], {0, 1}, 8) == ["a", "b", "lost"]
    assert standing_in(["head", "a"], {0, 1}, 0) == ["head", "a"]


def test_ranks_without_a_machine_are_an_error_that_says_which_there_are():
    with pytest.raises(MachinesGone, match=r"is gone, and the Ray cluster has no other with 8 GPUs") as short:
        standing_in(["lost", "gone", "b"], {0, 1, 2}, 8)
    assert (short.value.others, short.value.numbers) == (["a", "gone", "b"], {1})


def test_machines_that_ended_and_those_that_the_cluster_never_had_are_gone() -> None:
    assert gone(["a", "gone", "head", "lost"]) == ["gone", "lost"]
    assert gone(["a", "b"]) == []


def test_without_a_raylet_here_nobody_is_asked_for(raylet: socket.socket) -> None:
    """Ray says some 12 s later that it has died."""
    assert (gone(["head", "a"]), present(0)) == ([], ["a", "b", "head"])
    raylet.close()
    for asked in (lambda: gone(["head", "a"]), lambda: present(0), lambda: standing_in(["head"], {0}, 0)):
        with pytest.raises(RayDied, match="the same command resumes a run"):
            asked()
