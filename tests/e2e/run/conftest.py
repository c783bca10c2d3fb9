"""Runs that several tests look at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlscale.rollout.engines.client import EngineClient
from rlscale.run.processes.forks import worker_fork_server, write_forks
from tests.e2e.run.command import PROBE, SHORT, Finished, run

RECIPE = """
defaults:
  - arithmetic
  - _self_
warm_start:
  recipe: {stage}
rollout:
  groups_per_iteration: 4
  samples_per_group: 4
eval:
  prompts: 16
  every: 0
checkpoint:
  every: 1
run:
  iterations: 3
"""
STAGE = """
defaults:
  - arithmetic_sft
  - _self_
run:
  iterations: 60
"""


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory, fork_server: str) -> Iterator[str]:
    """An override by which a run's processes are forked from the session's, which have imported everything."""
    folder = tmp_path_factory.mktemp("warm")
    with worker_fork_server(folder) as forks:
        write_forks(replace(forks, engines=fork_server), folder / "warm.json")
        yield f"cluster.warm={folder / 'warm.json'}"


@pytest.fixture(scope="session")
def ready(warm: str, shared_ray: str) -> list[str]:
    """Overrides by which a run also joins the session's Ray: it starts in seconds."""
    return [warm, shared_ray]


@pytest.fixture(scope="session")
def on_shared_engine(shared_server) -> list[str]:
    """Overrides by which a run uses the session's engine instead of starting its own."""
    return [f"rollout.engine_urls=[{shared_server.url}]", f"rollout.engine_key_file={shared_server.key_file}"]


@pytest.fixture(scope="session")
def shared(on_shared_engine: list[str], ready: list[str]) -> list[str]:
    """The same for a run that is ready in seconds."""
    return [*on_shared_engine, *ready]


@pytest.fixture(scope="session")
def alone(on_shared_engine: list[str]) -> list[str]:
    """A short run on the session's engine whose other processes are all its own, descendants of its driver."""
    return [*SHORT, *on_shared_engine]


@pytest.fixture(scope="session")
def short(shared) -> list[str]:
    """A short run of the default recipe on the session's engine, without warm start."""
    return [*SHORT, *shared]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shared: list[str], shared_server) -> tuple[Path, Finished]:
    """The default recipe shortened, warm start included: the folder it ran in, and how it ended."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "stage.yaml").write_text(STAGE)
    (folder / "short.yaml").write_text(RECIPE.format(stage="stage.yaml"))
    ended = run(folder, "recipe=short.yaml", *shared)
    ended.engine_logprobs = asyncio.run(engine_logprobs(shared_server))  # before another run sends other weights
    return folder, ended


async def engine_logprobs(server) -> list[float]:
    """What the engine says of PROBE[1:]."""
    client = EngineClient(server.url, server.api_key)
    try:
        return (await client.score(np.array(PROBE, np.int32)))[1:].tolist()
    finally:
        await client.close()
