"""Engines that somebody else started are looked at before the run begins."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.derived.request_headers import ROUTED_EXPERTS_HEADER
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopRequested, StopSignal
from rlscale.run.sides import engines as fleets
from rlscale.run.sides.engines import Engines


class Answers(BaseHTTPRequestHandler):
    """An engine that says, or does not, which experts it chose."""

    tells: bool

    def do_GET(self) -> None:
        assert self.path == "/model_info"
        self.answer({"weight_version": "default"})

    def do_POST(self) -> None:
        assert self.path == "/generate"
        self.rfile.read(int(self.headers["Content-Length"]))
        asked = self.headers[ROUTED_EXPERTS_HEADER] == "1"
        self.answer({"meta_info": {"routed_experts": "AAAA"} if self.tells and asked else {}})

    def answer(self, what: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def started() -> Iterator[Callable[[bool], str]]:
    """Starts an engine; its URL."""
    servers = []

    def start(tells: bool) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Engine", (Answers,), {"tells": tells}))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fleet(replay: RoutingReplay) -> Engines:
    config = Config()
    config.trainer.routing_replay = replay
    layout: Any = None  # never reached
    return Engines(config, layout, [], Calls(StopSignal(), 1.0, "", 20.0), Path(), Path(), print)


def test_an_engine_that_does_not_say_which_experts_it_chose_is_refused(started: Callable[[bool], str]) -> None:
    silent, telling = started(False), started(True)
    with pytest.raises(UserError) as raised:
        fleet(RoutingReplay.rollout).meet(silent)
    assert str(raised.value) == (
        f"rollout.engine_urls: {silent} does not say which experts it chose; leave rollout.engine_urls out, so that "
        "the run starts engines that do, or set trainer.routing_replay=none"
    )
    fleet(RoutingReplay.rollout).meet(telling)
    for replay in (RoutingReplay.none, RoutingReplay.recorded):
        fleet(replay).meet(silent)


def test_an_engine_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match=r"rollout.engine_urls: http://127.0.0.1:9 does not answer, or refuses the key"):
        fleet(RoutingReplay.none).meet("http://127.0.0.1:9")


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_waits_for_an_address_without_answers_once_the_user_wants_the_run_to_end(mute: str) -> None:
    asked = fleet(RoutingReplay.none)
    threading.Timer(0.3, asked.calls._stop.ask).start()
    began = time.monotonic()
    with pytest.raises(StopRequested):
        asked.meet(mute)
    assert time.monotonic() - began < 5.0


def test_an_address_without_answers_is_refused_after_a_while(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "_LOOKED_AT_S", 0.3)
    with pytest.raises(UserError, match=rf"^rollout\.engine_urls: {mute} did not answer within 0\.3 s$"):
        fleet(RoutingReplay.none).meet(mute)
