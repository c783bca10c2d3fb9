"""Asks every machine of a Ray cluster for its facts, and pairs of them how fast they reach each other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlscale.config.errors import UserError, last_line
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.doctor.facts import Facts, Link
from rlscale.doctor.gathering import gather
from rlscale.platform.ports import free_port
from rlscale.run.processes.ray_session import RaySession, node_ids

_GATHERED_S = 120.0
_LINK_S = 30.0
_CLOCK_LOOKS = 3
_PROBE_S = 30.0
_REFUSED = 77
_PROBE = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10)
except AuthenticationError:
    sys.exit({_REFUSED})
"""


def ask_cluster(config: Config, lock: Mapping[str, str]) -> tuple[list[Facts], list[Link]]:
    """The facts of the machines that the run would use, and the links between them. UserError where no Ray answers."""
    with RaySession(config.cluster, Path(config.run.scratch)):
        nodes = node_ids(config.cluster.nodes, config.cluster.gpus_per_node)
        facts = facts_of(config, lock, nodes)
        asks = asks_for_token(ray.get_runtime_context().gcs_address)
        facts[0] = replace(facts[0], open_ray=None if asks is None else not asks)
        return facts, links_between(facts, nodes, nccl=config.cluster.device is Device.cuda)


def asks_for_token(address: str) -> bool | None:
    """Whether the Ray at `address` refuses a process without its token; None where that could not be found out."""
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    answered = answers(address, {**stranger, "RAY_AUTH_MODE": "disabled"})
    return None if answered is None else not answered


def answers(address: str, environment: Mapping[str, str]) -> bool | None:
    """Whether the Ray at `address` answers a process with that environment, or (False) refuses it for its token.

    None for anything else: nobody is there, it takes too long, or the process cannot ask.
    """
    asked = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(asked, env=environment, capture_output=True, check=False, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        return None
    return {0: True, _REFUSED: False}.get(done.returncode)


def facts_of(config: Config, lock: Mapping[str, str], nodes: Sequence[str]) -> list[Facts]:
    """What each of these machines says, with the difference of its clock. UserError where one does not answer."""
    asked = [_at(node, gather).remote(config, lock) for node in nodes]
    try:
        facts = ray.get(asked, timeout=_GATHERED_S)
        facts = [_with_clock(one, node) for one, node in zip(facts, nodes, strict=True)]
    except RayError as error:
        raise UserError(f"a machine of the cluster does not answer: {last_line(error)}") from error
    if len({one.name for one in facts}) < len(facts):  # machines may be called alike
        facts = [replace(one, name=f"{one.name} ({number})") for number, one in enumerate(facts)]
    return facts


def _with_clock(facts: Facts, node: str) -> Facts:
    """With the difference of its clock, by the quickest of a few answers."""
    best = (float("inf"), 0.0)
    for _ in range(_CLOCK_LOOKS):
        before = time.time()
        there = ray.get(_at(node, _now).remote(), timeout=_GATHERED_S)
        after = time.time()
        best = min(best, ((after - before) / 2, there - (before + after) / 2))
    return replace(facts, clock_error_s=best[0], clock_offset_s=best[1])


def links_between(facts: Sequence[Facts], nodes: Sequence[str], *, nccl: bool) -> list[Link]:
    """Each machine to the next one, and the last of several to the first; by gloo, and by NCCL where they have GPUs."""
    if len(nodes) < 2:
        return []
    backends = ["gloo", *(["nccl"] if nccl else [])]
    following = [*range(1, len(nodes)), 0] if len(nodes) > 2 else [1]
    pairs = list(zip(range(len(nodes)), following, strict=False))
    return [_link(backend, facts, nodes, pair) for backend in backends for pair in pairs]


def _link(backend: str, facts: Sequence[Facts], nodes: Sequence[str], pair: tuple[int, int]) -> Link:
    sender, receiver = (facts[number].name for number in pair)
    calls: list[Any] = []
    try:
        address, port = ray.get(_at(nodes[pair[0]], _meeting_point).remote(), timeout=_LINK_S)
        calls = [_at(nodes[number], _exchange).remote(rank, address, port, backend) for rank, number in enumerate(pair)]
        return Link(sender, receiver, backend, min(ray.get(calls, timeout=3 * _LINK_S)))
    except RayError as error:
        return Link(sender, receiver, backend, None, last_line(error)[:200])
    finally:
        # Only what still runs: Ray ends a driver that cancels a task whose result it is just taking in.
        for call in ray.wait(calls, num_returns=len(calls), timeout=0)[1] if calls else []:
            ray.cancel(call, force=True)


def _now() -> float:
    return time.time()


def _meeting_point() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    return address, free_port(address)


def _exchange(rank: int, address: str, port: int, backend: str) -> float:
    from rlscale.doctor.bandwidth import exchange

    return exchange(rank, address, port, backend, _LINK_S)


def _at(node: str, function: Any) -> Any:
    """The function as a task of that machine."""
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    environment = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=place, runtime_env=environment, max_retries=0)
