"""Log-probs that differ are blamed on what differs: the engine's config, its weights, or what cannot be seen."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlscale.families.config_file import complete
from rlscale.serve.engine_config import config_of_engine, why_they_differ
from tests.unit.families.folders import DENSE

OURS = complete(DENSE)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path)  # type: ignore[attr-defined]  # those of the test
        self.send_response(200 if answer is not None else 404)
        self.end_headers()
        self.wfile.write(json.dumps(answer or {}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Answers as SGLang does of the folder `tmp_path`, in which there is the trainer's config."""
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers = {  # type: ignore[attr-defined]
        "/model_info": {"model_path": str(tmp_path)},
        "/server_info": {"json_model_override_args": "{}", "dtype": "float32"},
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(engine: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{engine.server_address[1]}"


def test_equal_configs_leave_the_weights(engine: ThreadingHTTPServer) -> None:
    assert config_of_engine(url(engine), None) == DENSE
    assert "so the engine does not have the trainer's weights" in why_they_differ(url(engine), None, OURS, "float32")


def test_another_config_is_named_and_the_weights_are_not_blamed(engine: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**DENSE, "rope_theta": 1e6}))
    said = "the engine computes with another config than the trainer: rope_theta is 1000000.0 there and 10000.0 here"
    assert why_they_differ(url(engine), None, OURS, "float32") == said
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    engine.answers["/server_info"] = {"json_model_override_args": '{"rms_norm_eps": 1e-5}'}  # type: ignore[attr-defined]
    assert why_they_differ(url(engine), None, OURS, "float32").endswith("rms_norm_eps is 1e-05 there and 1e-06 here")


@pytest.mark.parametrize("says", ["bfloat16", "torch.bfloat16"])
def test_another_type_of_weights_is_named_before_all_else(engine: ThreadingHTTPServer, says: str) -> None:
    engine.answers["/server_info"] = {"dtype": says}  # type: ignore[attr-defined]
    said = why_they_differ(url(engine), None, OURS, "float32")
    assert said.startswith("the engine computes in bfloat16 and the trainer in float32; start the engine with dtype=f")
    assert "weights" in why_they_differ(url(engine), None, OURS, "bfloat16")


@pytest.mark.parametrize("says", [{"dtype": "auto"}, {"dtype": 7}, {}])
def test_a_type_that_an_engine_does_not_tell_is_not_blamed(engine: ThreadingHTTPServer, says: Any) -> None:
    engine.answers["/server_info"] = says  # type: ignore[attr-defined]
    assert "so the engine does not have the trainer's weights" in why_they_differ(url(engine), None, OURS, "float32")


def test_what_cannot_be_seen_is_not_decided(engine: ThreadingHTTPServer) -> None:
    engine.answers["/model_info"] = {"model_path": "/elsewhere"}  # type: ignore[attr-defined]
    said = why_they_differ(url(engine), None, OURS, "float32")
    assert said.startswith(
        "either the engine's config or its weights are not the trainer's: its folder /elsewhere cannot"
    )
    del engine.answers["/model_info"]  # type: ignore[attr-defined]
    assert "does not say of which model it is" in why_they_differ(url(engine), None, OURS, "float32")
