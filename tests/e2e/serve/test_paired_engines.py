"""Two real engines of which one reads prompts and the other generates, over TCP, behind the real router."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shared_server import SharedServer, wait_until_generating

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.http import call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import PAIRED, RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.serve.test_engine import PROMPT, difference, generate, send_plain, sharpened, tokens_of
from tests.extras.transfer_engine import transfer_engine

KEY = "the key of the pair"


@dataclass(frozen=True)
class Pair:
    """Asked at the router like a single server."""

    url: str
    api_key: str
    model_folder: Path
    engines: dict[Role, EngineReceiver]


@pytest.fixture(scope="module")
def pair(shared_server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in transfer_engine().items():
            patch.setenv(name, value, prepend=":")
        supervisor = Supervisor(folder / "logs", folder / "scratch", KEY)
        try:
            with ThreadPoolExecutor(3) as pool:
                specs = [
                    ServerSpec(role.value, str(shared_server.model_folder), Device.cpu, role=role)
                    for role in (Role.prefill, Role.decode)
                ]
                starting = [pool.submit(supervisor.start_engine, spec) for spec in specs]
                router = pool.submit(supervisor.start_router, {PAIRED: True}).result()
                urls = {spec.role: one.result() for spec, one in zip(specs, starting, strict=True)}
            for role, url in urls.items():
                RouterClient(router, KEY).add(url, role=role)
            engines = {role: EngineReceiver(url, KEY) for role, url in urls.items()}
            yield Pair(router, KEY, shared_server.model_folder, engines)
        finally:
            supervisor.stop()


def test_a_pair_has_the_logprobs_and_the_seeded_tokens_of_a_single_engine_before_and_after_a_sync(
    pair: Pair, shared_server: SharedServer
) -> None:
    for version in (1, 2):
        model = sharpened(shared_server, version)
        for receiver in (*pair.engines.values(), shared_server.receiver()):
            send_plain(receiver, model, version)
        for prompt in ([5, 9, 3], PROMPT * 9):
            found = generate(pair, 3, 24, prompt)
            assert difference(model, found, prompt) < 1e-4
            assert tokens_of(found) == tokens_of(generate(shared_server, 3, 24, prompt))
            assert found["meta_info"]["weight_version"] == str(version)
