"""What the receiver makes of an engine's answers, on a small HTTP server that gives those that a test wants.

The calls themselves are tested on a real engine in tests/e2e/serve; here it is about engines of a later version, about
failures and about silence, which the installed one does not produce on demand.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlscale.config.derived.paused_flush import MARK
from rlscale.serve.http import CallError
from rlscale.serve.receiver import EngineReceiver


class Engine(ThreadingHTTPServer):
    """Answers with `answers[path]` (status, JSON), 404 for other paths; keeps what it was sent."""

    daemon_threads = False  # closing it waits for its answers: no thread prints into another test's output

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An answer to somebody who has given up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, Any]] = {"/flush_cache": (200, "Cache flushed.")}
        self.calls: list[tuple[str, Any]] = []
        self.delay = 0.0
        self.delays: dict[str, float] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.server.calls.append((self.path, body))
        time.sleep(self.server.delays.get(self.path, self.server.delay))
        status, answer = self.server.answers.get(self.path, (404, {"detail": "Not Found"}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield engine
    engine.shutdown()
    thread.join()
    engine.server_close()


OK = (200, {"success": True, "message": ""})
UPDATE = "/update_weights_from_tensor"


def test_only_the_last_bucket_flushes_and_sets_the_version(engine: Engine) -> None:
    engine.answers[UPDATE] = OK
    receiver = EngineReceiver(engine.url, "key")
    receiver.receive_tensors(["AAA="], None, 5, last=False)
    receiver.receive_tensors(["BBB=", "CCC="], "flattened_bucket", 5, last=True)
    first, last = (body for path, body in engine.calls if path == UPDATE)
    assert first == {"serialized_named_tensors": ["AAA="], "load_format": None, "flush_cache": False}
    assert last["serialized_named_tensors"] == ["BBB=", "CCC="]
    assert (last["flush_cache"], last["weight_version"], last["load_format"]) == (True, "5", "flattened_bucket")


def test_a_draft_of_its_own_gets_nothing_of_the_policy(engine: Engine) -> None:
    engine.answers[UPDATE] = OK
    for to_draft in (False, True):
        EngineReceiver(engine.url, None, to_draft=to_draft).receive_tensors(["x"], None, 7, last=True)
    apart, both = [body for path, body in engine.calls if path == UPDATE]
    assert apart["disable_draft_model"] is True
    assert "disable_draft_model" not in both


def test_an_adapter_has_the_name_of_its_version_which_the_engine_reports_once_it_is_loaded(engine: Engine) -> None:
    load, name = "/load_lora_adapter_from_tensors", "/update_weight_version"
    engine.answers.update({load: OK, name: OK})
    receiver = EngineReceiver(engine.url, None)
    receiver.receive_adapter({"r": 2}, ["AAA=", "AAA="], 7)
    assert engine.paths() == ["/flush_cache", "/begin_weight_update", load, name]
    assert engine.calls[-2][1] == {
        "lora_name": "policy-7",
        "config_dict": {"r": 2},
        "load_format": "flattened_bucket",
        "serialized_named_tensors": ["AAA=", "AAA="],
    }
    assert engine.calls[-1][1] == {"new_version": "7", "abort_all_requests": False}
    engine.answers[load] = (200, {"success": False, "error_message": "the adapter was damaged on its way"})
    with pytest.raises(CallError, match="the adapter was damaged on its way"):
        receiver.receive_adapter({"r": 2}, ["AAA="], 8)
    assert engine.paths()[-1] == load, "it is not called by a version that it does not have"


def test_an_engine_that_knows_no_begin_is_asked_once(engine: Engine) -> None:
    engine.answers[UPDATE] = OK
    receiver = EngineReceiver(engine.url, None)
    for version in (1, 2):
        receiver.receive_tensors(["A"], None, version, last=True)
    assert engine.paths() == ["/flush_cache", "/begin_weight_update", UPDATE, "/flush_cache", UPDATE]


def test_an_engine_that_wants_begin_and_end_gets_them_around_all_buckets(engine: Engine) -> None:
    engine.answers.update({"/begin_weight_update": OK, "/end_weight_update": OK, UPDATE: OK})
    receiver = EngineReceiver(engine.url, None)
    for last in (False, True):
        receiver.receive_tensors(["A"], None, 1, last)
    assert engine.paths() == ["/flush_cache", "/begin_weight_update", UPDATE, UPDATE, "/end_weight_update"]


def test_no_update_is_sent_while_a_request_runs(engine: Engine) -> None:
    engine.answers.update({UPDATE: OK, "/flush_cache": (400, "Flush cache failed.")})
    with pytest.raises(CallError, match=r"requests still run after 0\.1 s, so no weights were sent"):
        EngineReceiver(engine.url, None, timeout=0.1).receive_tensors(["A"], None, 1, last=True)
    assert {*engine.paths()} == {"/flush_cache"}
    threading.Timer(0.1, lambda: engine.answers.update({"/flush_cache": (200, "")})).start()
    EngineReceiver(engine.url, None).receive_tensors(["A"], None, 1, last=True)
    assert engine.paths()[-1] == UPDATE


@pytest.mark.parametrize(("states", "flushes"), [([{MARK: True}], True), ([{MARK: True}, {}], False)])
def test_an_engine_that_keeps_requests_is_paused_from_the_first_bucket_to_the_last(
    engine: Engine, states: list[Any], flushes: bool
) -> None:
    engine.answers.update({path: (200, {}) for path in ("/pause_generation", "/continue_generation")})
    engine.answers.update({UPDATE: OK, "/server_info": (200, {"internal_states": states})})
    receiver = EngineReceiver(engine.url, None, keep="retract")
    assert receiver.keeps_exactly("retract") == flushes
    for last in (False, True):
        receiver.receive_tensors(["A"], None, 1, last)
    assert engine.calls[-5] == ("/pause_generation", {"mode": "retract"})
    assert engine.paths()[-4:] == ["/begin_weight_update", UPDATE, UPDATE, "/continue_generation"]
    assert [body["flush_cache"] for path, body in engine.calls if path == UPDATE] == [False, flushes]


@pytest.mark.parametrize("keep", [None, "retract"])
def test_the_pause_of_an_update_is_told_without_the_loading_of_its_buckets(engine: Engine, keep: str | None) -> None:
    engine.answers.update({path: (200, {}) for path in ("/pause_generation", "/continue_generation", "/server_info")})
    engine.answers.update({UPDATE: OK, "/begin_weight_update": OK, "/end_weight_update": OK})
    engine.delays = {UPDATE: 0.2, "/pause_generation": 0.03, "/continue_generation": 0.04, "/flush_cache": 0.05}

    def paused_s() -> float:
        receiver = EngineReceiver(engine.url, None, keep=keep)
        for last in (False, True):
            receiver.receive_tensors(["A"], None, 1, last)
        return receiver.paused_s

    first = paused_s()
    assert first >= (0.05 if keep is None else 0.07)
    assert first < 0.2 or any(paused_s() < 0.2 for _ in range(10)), "loading alone takes longer"
    if keep is not None:
        assert engine.paths()[:2] == ["/server_info", "/pause_generation"], "what can be asked before the pause is"


def test_an_update_that_failed_begins_again(engine: Engine) -> None:
    engine.answers.update({path: (200, {}) for path in ("/pause_generation", "/continue_generation", "/server_info")})
    receiver = EngineReceiver(engine.url, None, keep="in_place")
    for answer in ((500, ""), OK):
        engine.answers[UPDATE] = answer
        with nullcontext() if answer is OK else pytest.raises(CallError):
            receiver.receive_tensors(["A"], None, 1, last=True)
    assert engine.paths().count("/pause_generation") == 2
    assert engine.paths()[-1] == "/continue_generation"


def test_requests_kept_in_place_are_not_flushed(engine: Engine) -> None:
    engine.answers.update({UPDATE: OK, "/pause_generation": (200, {}), "/continue_generation": (200, {})})
    engine.answers["/server_info"] = (200, {})
    receiver = EngineReceiver(engine.url, None)
    receiver.pause("in_place")
    receiver.receive_tensors(["A"], None, 1, last=True)
    receiver.continue_()
    receiver.receive_tensors(["A"], None, 2, last=True)
    assert [body["flush_cache"] for path, body in engine.calls if path == UPDATE] == [False, True]


def test_an_answer_without_success_is_an_error_with_the_engines_words(engine: Engine) -> None:
    receiver = EngineReceiver(engine.url, None)
    engine.answers["/init_weights_update_group"] = (200, {"success": False, "message": "group exists"})
    with pytest.raises(CallError, match="init_weights_update_group: group exists"):
        receiver.open_group("127.0.0.1", 1, 1, 2, "g", "gloo")
    engine.answers["/destroy_weights_update_group"] = (400, {"success": False, "message": "does not exist"})
    with pytest.raises(CallError, match=r"status 400.*does not exist"):
        receiver.close_group("g")


def test_silence_and_absence_are_errors_that_name_the_engine(engine: Engine) -> None:
    engine.answers["/resume_memory_occupation"] = (200, None)
    engine.delay = 0.5
    with pytest.raises(CallError, match=rf"{engine.url}/resume_memory_occupation: no answer within 0\.1 s"):
        EngineReceiver(engine.url, None, timeout=0.1).resume_memory()
    with pytest.raises(CallError, match=r"http://127\.0\.0\.1:9/abort_request: .*refused"):
        EngineReceiver("http://127.0.0.1:9", None).abort_all()
