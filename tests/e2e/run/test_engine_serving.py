"""An engine that `python -m rlscale engines serve` has started takes deltas from a run that joins it by its URL."""

from __future__ import annotations

import signal
from pathlib import Path

from shared_server import SharedServer

from rlscale.platform.ports import free_port
from rlscale.serve.receiver import EngineReceiver
from tests.e2e.run.command import SHORT, Started, run, summary


def test_a_run_sends_deltas_to_it_and_leaves_it_running(
    warm: str, ready: list[str], shared_server: SharedServer, tmp_path: Path
) -> None:
    key, port = f"key_file={shared_server.key_file}", free_port("127.0.0.1")
    place = [f"model={shared_server.model_folder}", f"port={port}", key, warm.removeprefix("cluster.")]
    with Started(tmp_path, "engines", "serve", *place) as started:
        url = f"http://127.0.0.1:{port}"
        started.wait_for(f"{url} serves")
        joined = [f"rollout.engine_urls=[{url}]", f"rollout.engine_{key}", "weights/transport=delta"]
        ended = run(tmp_path, *SHORT, *ready, *joined, "eval.enabled=false", "run.output=out")
        assert ended.code == 0, ended.text
        assert summary(tmp_path / "out")["canary_diff_max"] < 1e-4
        assert EngineReceiver(url, shared_server.api_key).weight_version() == "2"
        started.signal(signal.SIGTERM)
        assert started.process.wait(timeout=30) == 0, started.log.read_text()
        assert started.seconds_until_gone(15.0) < 15.0
