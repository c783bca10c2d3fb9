"""What the end-to-end tests of a session share: an engine, and the process that it and others are forked from.

A run uses it with `rollout.engine_urls=[<url>] rollout.engine_key_file=<key_file>` and the model `tiny_qwen3` (or
`model.path=<model_folder>`, the same). Whoever uses it sends it weights first: the test before may have left others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.http import call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.server_spec import ServerSpec, fork_server_environment
from rlscale.serve.supervisor import Supervisor

MODEL_FILE = Path(__file__).parents[2] / "conf" / "model" / "tiny_qwen3.yaml"


@dataclass(frozen=True)
class SharedServer:
    """A running engine with the shipped tiny model in fp32."""

    url: str
    api_key: str
    key_file: Path
    model_folder: Path
    log: Path

    @property
    def urls(self) -> list[str]:
        """For `rollout.engine_urls`."""
        return [self.url]

    def process(self, word: str) -> psutil.Process:
        """The one of its processes with this word in its command line."""
        port = int(self.url.rpartition(":")[2])
        (server,) = {
            one.pid for one in psutil.net_connections("tcp4") if (one.status, one.laddr[1]) == ("LISTEN", port)
        }
        family = psutil.Process(server).children(recursive=True)
        (found,) = [process for process in family if word in " ".join(process.cmdline())]
        return found

    def receiver(self) -> EngineReceiver:
        """A new receiver for it."""
        return EngineReceiver(self.url, self.api_key)

    def load_folder(self) -> None:
        """Give it the weights of its folder."""
        body = {"model_path": str(self.model_folder), "weight_version": "0", "flush_cache": True}
        call(self.url, "/update_weights_from_disk", self.api_key, body, timeout=60)


EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
}
"""What makes a mixture of experts of the shipped tiny model."""


def tiny_model(scratch: Path, **architecture: Any) -> Path:
    """The folder of the shipped tiny model, made below `scratch`; `architecture` replaces keys of its own."""
    values = yaml.safe_load(MODEL_FILE.read_text())
    create = CreateModelConfig(**values["create"])
    create.architecture |= architecture
    return ensure_model_folder(ModelConfig(name=values["name"], create=create), scratch)


def wait_until_generating(url: str, api_key: str, limit_s: float = 60.0) -> None:
    """Until the engine has sampled tokens of a request. AssertionError with its report if not within `limit_s`."""
    deadline, begun = time.monotonic() + limit_s, None
    while True:
        load = call(url, "/v1/loads?include=core", api_key, timeout=10)["loads"][0]
        if load["num_running_reqs"]:
            begun = load["num_used_tokens"] if begun is None else begun
            if load["num_used_tokens"] > begun:  # the prompt is in the cache at once, and then token by token
                return
        assert time.monotonic() < deadline, f"no token was sampled in {limit_s:g} s; the engine's load: {load}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a process that has imported SGLang: engines are forked from it in a moment instead of seconds."""
    scratch = tmp_path_factory.mktemp("fork_server")
    server = start_fork_server(fork_server_environment(scratch), scratch)
    yield server.address
    server.stop()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, fork_server: str) -> Iterator[SharedServer]:
    """The engine; ended with the session."""
    folder = tmp_path_factory.mktemp("shared")
    key = secrets.token_hex(16)
    key_file = folder / "engine.key"
    key_file.write_text(key + "\n")
    model = tiny_model(folder / "scratch")
    supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=fork_server)
    try:
        url = supervisor.start_engine(ServerSpec("shared", str(model), Device.cpu))
        yield SharedServer(url, key, key_file, model, folder / "logs" / "shared.log")
    finally:
        supervisor.stop()
