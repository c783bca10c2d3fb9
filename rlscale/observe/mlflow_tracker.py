"""A tracker for MLflow: to a server of it, or to files in the run's folder."""

from __future__ import annotations

import importlib.util
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.config.errors import UserError, first_line
from rlscale.observe.formatting import visible
from rlscale.observe.summary import Summary
from rlscale.observe.trackers import TrackedRun, environment, finite_numbers

_FOLDER_TAG = "rlscale.folder"
_NOT_IN_A_NAME = re.compile(r"[^/\w.\- ]")
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100
_LONGEST_PARAM = 6000
_FILES_ALLOWED = {"MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet"}
"""MLflow writes plain files only where that is said; it needs no git for what it does here."""
_SHORT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Limits of a request, for which the run waits, unless the user has set others. MLflow's own are 7 and 120 s."""
_FAILURES = 3
"""After so many in a row nothing more is asked of a server, until the end."""
_STATUS = {"failed": "FAILED", "stopped": "KILLED"}
"""Of a run in its summary -> in MLflow, where every other is FINISHED."""


class MlflowTracker:
    """Metrics by their names and iterations, and the configuration as parameters, in the experiment `tracker.project`.

    Characters that a name of MLflow cannot have are `_`: `eval/pass@1` is `eval/pass_1`. The same folder is the same
    run, also after it was continued; MLflow takes no point back, so where iterations are made again a new run of it
    begins with what stands, and the old one is deleted there.
    """

    def __init__(self, run: TrackedRun, uri: str = "") -> None:
        """`uri`: of a tracking server, or of a folder; by default `mlruns` in the run's own. UserError if not there."""
        self.check(uri)
        self._folder, self._failures = run.folder, 0
        with environment(_FILES_ALLOWED | _SHORT):
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            try:
                self._client = MlflowClient(tracking_uri=uri or f"file:{(run.folder / 'mlruns').resolve()}")
                self._id: str | None = self._opened(run)
            except (MlflowException, OSError) as error:
                raise UserError(
                    f"tracker=mlflow: {uri or 'the run folder'} cannot be written ({first_line(error)}); correct "
                    "tracker.known.mlflow.uri"
                ) from error

    @staticmethod
    def check(uri: str = "") -> None:
        """UserError where the package is not installed."""
        if importlib.util.find_spec("mlflow") is None:
            raise UserError("tracker=mlflow: the package is not installed; pip install 'rlscale[mlflow]'")

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Log all numbers as those of the iteration. What a server refuses is said, and does not end the run."""
        from mlflow.entities import Metric

        if self._id is None or self._failures >= _FAILURES:
            return
        now = int(time.time() * 1000)
        numbers = [Metric(_named(name), value, now, iteration) for name, value in finite_numbers(metrics).items()]
        try:
            with environment(_SHORT):
                self._log(self._id, numbers)
            self._failures = 0
        except Exception as error:  # of a connection, or of the server
            self._failures += 1
            more = "; it is sent no more of this run, metrics.jsonl has all" if self._failures == _FAILURES else ""
            _warn("MLflow did not take iteration %d: %s%s", iteration, first_line(error), more)

    def close(self) -> None:
        """Tell MLflow that the run is over, and by its summary how it ended. May be called twice."""
        if self._id is None:
            return
        run, self._id = self._id, None
        summary = Summary.read(self._folder)
        try:
            with environment(_SHORT):
                self._client.set_terminated(run, _STATUS.get(summary.status if summary else "", "FINISHED"))
        except Exception as error:  # as in log
            _warn("MLflow was not told that the run is over: %s", first_line(error))

    def _opened(self, run: TrackedRun) -> str:
        """The id of the run in MLflow: that of the folder where it has one and nothing of it is to be replaced."""
        name = visible(run.settings.project)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{_FOLDER_TAG}` = '{run.id}'")
        earlier = found[0].info.run_id if found and run.resumed is not None else None
        history = self._history(earlier)
        if earlier is not None and all(metric.step <= (run.resumed or 0) for metric in history):
            self._client.update_run(earlier, status="RUNNING")
            return earlier
        made = self._client.create_run(experiment, tags={_FOLDER_TAG: run.id}, run_name=visible(run.name)).info.run_id
        self._log_settings(made, run.config)
        self._log(made, [metric for metric in history if metric.step <= (run.resumed or 0)])
        if earlier is not None:
            self._client.delete_run(earlier)
        return str(made)

    def _history(self, run: str | None) -> list[Any]:
        """Every point of a run."""
        if run is None:
            return []
        names = self._client.get_run(run).data.metrics
        return [metric for name in names for metric in self._client.get_metric_history(run, name)]

    def _log(self, run: str, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(run, metrics=metrics[start : start + _METRICS_AT_ONCE])

    def _log_settings(self, run: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_named(key), visible(str(value))[:_LONGEST_PARAM]) for key, value in _leaves(config)]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(run, params=params[start : start + _PARAMS_AT_ONCE])


def _leaves(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted key."""
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _leaves(value, f"{before}{key}.") if isinstance(value, Mapping) else [(f"{before}{key}", value)]
    return found


def _named(name: str) -> str:
    return _NOT_IN_A_NAME.sub("_", name)


def _warn(text: str, *values: Any) -> None:
    logging.getLogger(__name__).warning(text, *values)
