"""What MLflow reads back of a run, from the files that its own client wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.observe.mlflow_tracker import MlflowTracker
from rlscale.observe.summary import Summary
from rlscale.observe.trackers import build_tracker, check_tracker
from tests.extras.mlflow_package import mlflow_package  # noqa: F401  pytest finds it by name


def read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The only run that is not deleted, and its metrics by name."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"file:{folder / 'mlruns'}")
    experiment = client.get_experiment_by_name("rlscale")
    (run,) = client.search_runs([experiment.experiment_id])
    points = {
        name: sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    return run, points


@pytest.mark.usefixtures("mlflow_package")
def test_mlflow_reads_back_metrics_by_iteration_and_a_continued_run_has_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(None, ["tracker=mlflow", "tracker.name=monday"]).tracker
    check_tracker(config)
    first = build_tracker(config, tmp_path, run_config={"optim": {"lr": 1e-4}})
    first.log(1, {"loss": 1.0, "note": "no number", "bad": float("nan")})
    first.log(3, {"loss": 3.0})
    first.log(2, {"eval/pass@1": 0.5})  # by engines that were slower than an iteration
    first.close()
    first.close()
    run, points = read(tmp_path, monkeypatch)
    assert (run.info.run_name, run.info.status, run.data.params) == ("monday", "FINISHED", {"optim.lr": "0.0001"})
    assert points == {"loss": [(1, 1.0), (3, 3.0)], "eval/pass_1": [(2, 0.5)]}
    second = build_tracker(config, tmp_path, resumed=2, run_config={"optim": {"lr": 1e-4}})
    second.log(3, {"loss": 30.0})
    second.close()
    _, points = read(tmp_path, monkeypatch)
    assert points == {"loss": [(1, 1.0), (3, 30.0)], "eval/pass_1": [(2, 0.5)]}
    with pytest.raises(UserError, match=r"tracker=mlflow: ftp://nowhere cannot be written .*correct tracker.known"):
        build_tracker(compose(None, ["tracker=mlflow", "tracker.known.mlflow.uri=ftp://nowhere"]).tracker, tmp_path)


@pytest.mark.usefixtures("mlflow_package")
@pytest.mark.parametrize(("status", "there"), [("finished", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_mlflow_shows_how_a_run_ended_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, there: str
) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    config = compose(None, ["tracker=mlflow"]).tracker
    for resumed in (None, 1):  # the second time it is found
        tracker = build_tracker(config, folder, resumed=resumed)
        tracker.log(1 + (resumed or 0), {"loss": 1.0})
        Summary(status=status).write(folder)
        tracker.close()
    run, points = read(folder, monkeypatch)
    assert (run.info.status, points) == (there, {"loss": [(1, 1.0), (2, 1.0)]})


class Server(ThreadingHTTPServer):
    """What of MLflow's server a run asks for, and how often it was asked since it refuses."""

    refuses = False
    asked = 0


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        run = {"info": {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}}
        said = {"experiment": {"experiment_id": "1", "name": "rlscale"}, "run": run}
        self.server.asked += self.server.refuses
        self.send_response(500 if self.server.refuses else 200)
        self.end_headers()
        self.wfile.write(json.dumps({} if self.path.endswith("search") else said).encode())

    do_POST = do_PATCH = do_GET  # noqa: N815  the names that http.server calls

    def log_message(self, *unused: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("mlflow_package")
@pytest.mark.parametrize("gone", [False, True])
def test_a_server_that_refuses_or_is_gone_is_asked_a_few_times_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gone: bool
) -> None:
    with serving() as server:
        uri = f"http://127.0.0.1:{server.server_port}"
        tracker = build_tracker(compose(None, ["tracker=mlflow", f"tracker.known.mlflow.uri={uri}"]).tracker, tmp_path)
        tracker.log(1, {"loss": 1.0})
        assert not caplog.messages
        server.refuses = True
        if not gone:
            log_to_the_end(tracker)
            assert 0 < server.asked <= 2 * 4  # three iterations and the end, each asked for once more
    if gone:
        log_to_the_end(tracker)
    messages = [record.message for record in caplog.records if record.name == "rlscale.observe.mlflow_tracker"]
    assert [message.split(":")[0] for message in messages] == [
        *(f"MLflow did not take iteration {iteration}" for iteration in (2, 3, 4)),
        "MLflow was not told that the run is over",
    ]
    assert ["it is sent no more of this run" in message for message in messages] == [False, False, True, False]


def log_to_the_end(tracker: Any) -> None:
    for iteration in range(2, 9):
        tracker.log(iteration, {"loss": 1.0})
    tracker.close()
    tracker.close()


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rlscale\[mlflow\]'"):
        MlflowTracker.check()
