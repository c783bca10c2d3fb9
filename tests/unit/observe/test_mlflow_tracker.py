"""What MLflow reads back of a run, from the files that its own client wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.observe.mlflow_tracker import MlflowTracker
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


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rlscale\[mlflow\]'"):
        MlflowTracker.check()
