"""A tracker for Prometheus: the newest numbers of a run at an address of this machine, for whoever scrapes it."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.observe.trackers import TrackedRun, finite_numbers

PREFIX = "rlscale_"
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_LABELS = ("recipe", "run")


class PrometheusTracker:
    """`http://<host>:<port>/metrics`, a gauge for each metric: `rlscale_reward{recipe="...",run="..."}`.

    Characters that a name of Prometheus cannot have are `_`: `eval/pass@1` is `rlscale_eval_pass_1`. It asks for
    nothing, so it is for this machine unless `host` is an address of a closed network.
    """

    def __init__(self, run: TrackedRun, host: str = "127.0.0.1", port: int = 9464) -> None:
        """UserError where the port is taken."""
        from prometheus_client import CollectorRegistry, start_http_server

        self._registry = CollectorRegistry()
        self._gauges: dict[str, Any] = {}
        recipe = run.config.get("run", {}).get("recipe", run.folder.parent.name)
        self._labels = (str(recipe), run.folder.name)
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise _refused(host, port, error) from error

    @staticmethod
    def check(host: str = "127.0.0.1", port: int = 9464) -> None:
        """UserError where the port is taken now, before the run starts anything."""
        try:
            socket.create_server((host, port), family=_family(host)).close()
        except OSError as error:
            raise _refused(host, port, error) from error

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Show these numbers from now on, and of which iteration they are."""
        for name, value in {**finite_numbers(metrics), "iteration": float(iteration)}.items():
            self._gauge(name).labels(*self._labels).set(value)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _gauge(self, name: str) -> Any:
        from prometheus_client import Gauge

        called = PREFIX + _NOT_IN_A_NAME.sub("_", name)
        if called not in self._gauges:
            self._gauges[called] = Gauge(called, f"The metric {name} of rlscale.", _LABELS, registry=self._registry)
        return self._gauges[called]


def _refused(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"tracker=prometheus: {host}:{port} cannot be listened on ({error.strerror}); give another "
        "tracker.known.prometheus.port"
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
