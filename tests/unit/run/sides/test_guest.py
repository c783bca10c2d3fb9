"""What a run knows of an engine that somebody else started, from what that one answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlscale.platform.sglang_passes import KEY
from rlscale.run.sides.guest import Guest
from rlscale.serve.http import CallError

PATIENCE_S = 20.0
WAITING = {"requests": 3, "paused": False, "moves": 7}


class Engine:
    """Answers what it is told to, and nothing it is not."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: dict[str, Any] = {"/server_info": {}, "/progress": dict(WAITING), "/model_info": {}}
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path)
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.guest = Guest(self.url, None, lambda: self.now)

    def wrong_after(self, looks: int) -> str | None:
        """What is wrong when it was looked at so often, once a second."""
        wrong = None
        for _ in range(looks):
            self.now += 1.0
            self.guest.silence()  # which asks it, every other time
            asking = self.guest._pulse._asking
            assert asking is not None
            asking.join()
            wrong = self.guest.wrong(PATIENCE_S)
        return wrong


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_one_that_answers_and_gives_its_requests_no_token_is_noticed_when_patience_is_over(engine: Engine) -> None:
    # It is asked every other second, and the second answer is the first that can be compared.
    assert engine.wrong_after(2 + 19) is None
    assert engine.wrong_after(1) == "gave none of its requests a token for 20 s"
    engine.answers["/progress"]["moves"] += 1
    assert engine.wrong_after(3) is None, "one got on"


@pytest.mark.parametrize(
    "progress",
    [
        {"requests": 0, "paused": False, "moves": 7},  # nothing is asked of it
        {"requests": 3, "paused": True, "moves": 7},  # it takes weights
        None,  # an SGLang that was started by itself cannot tell
        {"moves": "many"},
    ],
)
def test_nothing_is_wrong_with_one_of_which_no_token_is_expected_or_that_cannot_tell(
    engine: Engine, progress: Any
) -> None:
    engine.answers["/progress"] = progress
    assert engine.wrong_after(30) is None


def test_one_that_makes_passes_works(engine: Engine) -> None:
    for begun in range(30):
        engine.answers["/server_info"]["internal_states"] = [{KEY: [begun, 0]}]
        assert engine.wrong_after(1) is None
    assert engine.wrong_after(30) is not None, "it makes none any more"


def test_one_without_the_weights_that_it_had_was_started_again(engine: Engine) -> None:
    for says, restarted in (("default", False), ("4", False), ("default", True), ("5", True)):
        engine.answers["/model_info"] = {"weight_version": says}
        engine.guest.ask()
        assert engine.guest.restarted is restarted


def test_one_that_is_not_there_is_silent(engine: Engine) -> None:
    engine.server.shutdown()
    engine.server.server_close()
    with pytest.raises(CallError):
        engine.guest.ask()
    assert engine.wrong_after(60) == "does not answer"
