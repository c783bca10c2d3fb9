"""An engine that somebody else started is refused where it serves another model, and said to be of another version."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlscale.config.composition.compose import compose
from rlscale.config.composition.locations import conf_dir
from rlscale.config.errors import UserError
from rlscale.run.sides.given_engine import GivenEngine
from rlscale.serve.receiver import EngineReceiver


def folder_of(path: Path, **changed: Any) -> str:
    """A folder with the config of the shipped tiny model, and nothing else."""
    path.mkdir()
    architecture = yaml.safe_load((conf_dir() / "model" / "tiny_qwen3.yaml").read_text())["create"]["architecture"]
    (path / "config.json").write_text(json.dumps({"vocab_size": 32, **architecture, **changed}))
    return str(path)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    """Says that it serves the folder `theirs`, and of which version it is; both can be changed."""

    class Engine(BaseHTTPRequestHandler):
        serves = folder_of(tmp_path / "theirs")
        of = version("sglang")
        about: Any = None

        def do_GET(self) -> None:
            about = self.about or {"model_path": self.serves, "weight_version": "default"}
            told = {"/model_info": about, "/server_info": {"version": self.of}}
            self.send_response(200 if self.path in told else 404)
            self.end_headers()
            self.wfile.write(json.dumps(told.get(self.path)).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    Engine.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]  # for the tests
    yield Engine
    server.shutdown()
    server.server_close()


def met(engine: Any, section: str, notes: list[str] | None = None) -> GivenEngine:
    return GivenEngine(EngineReceiver(engine.url, None), None, section, [].append if notes is None else notes.append)


def test_one_that_cannot_hold_the_policys_weights_is_refused_before_anything_is_sent(engine, tmp_path: Path) -> None:
    met(engine, "rollout").check_architecture(folder_of(tmp_path / "same"))
    with pytest.raises(UserError) as raised:
        met(engine, "rollout").check_architecture(folder_of(tmp_path / "ours", num_hidden_layers=3, rope_theta=5.0))
    assert str(raised.value).startswith(
        f"rollout.engine_urls: {engine.url} serves another model than the run trains: num_hidden_layers is 4 there and "
        "3 here; rope_theta is 10000.0 there and 5.0 here; start it with "
    )


def test_the_folder_of_another_machine_is_left_to_the_canary(engine, tmp_path: Path) -> None:
    engine.serves = "/elsewhere/model"
    met(engine, "rollout").check_architecture(folder_of(tmp_path / "ours", num_hidden_layers=3))


def test_a_model_beside_the_policy_is_the_one_that_its_path_names(engine) -> None:
    engine.serves = "Qwen/Judge"
    for path in (None, "", "Qwen/Judge"):
        met(engine, "rollout.models.judge").check_served(path)
    with pytest.raises(UserError, match=r"serves Qwen/Judge, and not rollout\.models\.judge\.path=Qwen/Other"):
        met(engine, "rollout.models.judge").check_served("Qwen/Other")


def test_another_version_of_sglang_is_said(engine) -> None:
    notes: list[str] = []
    met(engine, "rollout.models.judge", notes).check_served(None)
    assert notes == []
    engine.of = "0.1"
    met(engine, "rollout.models.judge", notes).check_served(None)
    assert notes == [f"{engine.url} runs SGLang 0.1; engines that a run starts here have {version('sglang')}"]


def test_one_that_is_not_there_is_one_line() -> None:
    gone = GivenEngine(EngineReceiver("http://127.0.0.1:9", None), None, "rollout.models.judge", print)
    with pytest.raises(UserError, match=r"^rollout\.models\.judge\.engine_urls: http://127\.0\.0\.1:9 does not answer"):
        gone.check_served(None)


def test_one_that_keeps_its_cache_joins_no_run_whose_requests_are_not_kept_apart(engine) -> None:
    config, notes = compose(None, ["rollout.on_sync=in_place"]), list[str]()
    assert not met(engine, "rollout", notes).check_trained_on(config)
    assert "approximate" in notes[0]
    with pytest.raises(UserError, match=r"the run began with engines that can, .* `python -m rlscale engines serve`"):
        met(engine, "rollout").check_trained_on(config, apart=False)
    assert met(engine, "rollout").check_trained_on(compose(None, []), apart=False)


@pytest.mark.parametrize("page", ["<html></html>", [1], {"status": "ok"}])
def test_an_address_of_something_else_is_one_line(engine, page: Any) -> None:
    engine.about = page
    with pytest.raises(UserError, match=r"does not answer, or refuses the key .*/model_info: the answer"):
        met(engine, "rollout").check_trained_on(compose(None, []))


def test_one_that_does_not_patch_weights_gets_no_deltas(engine) -> None:
    met(engine, "rollout").check_trained_on(compose(None, ["weights/transport=disk"]))
    with pytest.raises(UserError, match=r"^weights/transport=delta: .* start it by `python -m rlscale engines serve`"):
        met(engine, "rollout").check_trained_on(compose(None, ["weights/transport=delta"]))
