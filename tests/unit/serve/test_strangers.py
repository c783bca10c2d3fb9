"""A server that is none of ours answers, on a port that was ours or under an address that somebody gave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.schema.cluster_config import Device
from rlscale.serve.engine_config import config_of_engine
from rlscale.serve.engine_launcher import EngineSite, SglangLauncher
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.http import CallError, told
from rlscale.serve.paired import bootstrap_port
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.simulator.simulated_launcher import SimulatedLauncher
from tests.unit.families.folders import DENSE

NOTHING = (
    '{"model_path": ["x"], "workers": null, "meta_info": null, "disaggregation_bootstrap_port": null, "port": null}'
)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer)  # type: ignore[attr-defined]  # that of the test

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=['"hello"', "hello", "", "[1]", "7", "null", "{}", NOTHING, '{"workers": [3, {}]}'])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that answers everything alike, with status 200."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer = request.param.encode()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("launcher", [SglangLauncher, SimulatedLauncher])
def test_a_stranger_on_the_port_of_an_engine_is_not_taken_for_it(
    launcher: Callable[[ServerSpec, EngineSite], Any], stranger: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    site = EngineSite(tmp_path / "log", tmp_path, "key", EngineProcesses(tmp_path, "key", None))
    assert is_no(lambda: launcher(ServerSpec("engine-0", str(tmp_path), Device.cpu), site).healthy(stranger))


@pytest.mark.parametrize(
    "ask",
    [
        lambda url: RouterClient(url, "key").workers(),
        lambda url: bootstrap_port(url, "key"),
        lambda url: EngineReceiver(url, "key").tells_routing(),
        lambda url: EngineReceiver(url, "key").names_support(),
    ],
)
def test_what_a_stranger_says_is_an_answer_that_failed(ask: Callable[[str], Any], stranger: str) -> None:
    with pytest.raises(CallError, match=r"the answer (is no JSON object|has no \w+)"):
        ask(stranger)


def test_a_stranger_does_not_say_of_which_model_it_is(stranger: str) -> None:
    with pytest.raises(ValueError, match=r"the engine does not say|cannot be read from here"):
        config_of_engine(stranger, None)


def test_what_is_missing_in_an_answer_is_named(stranger: str) -> None:
    with pytest.raises(CallError, match=rf"{stranger}/x: the answer (is no JSON object: .*|has no port)$"):
        told(stranger, "/x", None, has=("port", int), timeout=5.0)


def is_no(asked: Callable[[], bool]) -> bool:
    """As a supervisor takes the answer to `healthy`."""
    try:
        return not asked()
    except CallError:
        return True
