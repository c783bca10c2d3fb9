"""The router in front of the engines: how it is started, and the calls by which it learns its workers.

It balances and retries `/generate` and the OpenAI routes. Control calls (weights, abort, pause, memory) are not
forwarded; they go to each engine directly (`EngineReceiver`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.http import CallError, call
from rlscale.serve.paired import bootstrap_port

DERIVED = ("host", "port", "api_key", "worker_urls", "prometheus_port", "prometheus_host")
"""Options that rlscale sets itself and `rollout.router` cannot."""

PAIRED = "pd_disaggregation"
"""The option under which it sends a request to an engine that reads its prompt and to one that generates."""

_AT_ONCE = 64
"""Calls that are out to a router beside each other."""
_WANTS_WORKERS = "power_of_two"

DEFAULTS: dict[str, Any] = {
    "policy": "round_robin",
    "assignment_mode": "min_load",  # of policy=manual: a new trajectory goes where the fewest requests are
    "log_level": "warn",
    "request_timeout_secs": 24 * 3600,  # the client has the timeout; a long generation must not die here
    "retry_max_retries": 2,  # enough for an engine that dies under its requests; the client retries too
    "disable_circuit_breaker": True,  # an engine that paused for new weights is slow, not broken
    "health_check_timeout_secs": 120,  # the check waits behind the engine's running batch
    "health_check_interval_secs": 30,
    "health_failure_threshold": 10,  # the supervisor notices a dead engine at once; a busy one is not dead
    "health_success_threshold": 1,
    "worker_startup_timeout_secs": 600,
    "worker_startup_check_interval": 1,
    "shutdown_grace_period_secs": 1,
}
"""What differs from the router's own defaults, which suit a public service."""


def router_options(options: Mapping[str, Any], host: str, port: int, metrics_port: int) -> dict[str, Any]:
    """The RouterArgs (without the API key). UserError for options of the user's with which the router cannot start."""
    taken = sorted(set(options) & set(DERIVED))
    if taken:
        raise UserError(f"rollout.router.{taken[0]} is set by rlscale itself; remove it")
    if options.get("policy") == _WANTS_WORKERS:
        raise UserError(
            f"rollout.router.policy={_WANTS_WORKERS}: the router does not start with it before it has workers, and "
            "engines join it later; use manual, which sends each trajectory to the engine with the fewest requests"
        )
    derived = {"host": host, "port": port, "prometheus_host": "127.0.0.1", "prometheus_port": metrics_port}
    return {**DEFAULTS, **options, **derived}


def router_command() -> list[str]:
    """The command line of the router; everything else reaches it on standard input."""
    return [sys.executable, "-m", "rlscale.serve.router_main"]


class RouterClient:
    """The router's list of workers. Calls block; each raises CallError if the router does not do what it is told."""

    def __init__(self, url: str, api_key: str | None, timeout: float = 60.0) -> None:
        self.url = url
        self._api_key = api_key
        self._timeout = timeout

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the router knows of its workers, by their URL: at least `id` and `is_healthy`."""
        return {worker["url"]: worker for worker in self._call("/workers")["workers"]}

    def add(
        self,
        url: str,
        api_key: str | None = None,
        role: Role = Role.regular,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the engine at `url` a worker; returns once the router sends it requests.

        `api_key` is the engine's where it differs from the router's. `meanwhile` runs between two looks, and may raise.
        """
        key = api_key or self._api_key
        body: dict[str, Any] = {"url": url, "api_key": key} if key else {"url": url}
        if role is not Role.regular:
            body["worker_type"] = role.value
        if role is Role.prefill:
            body["bootstrap_port"] = bootstrap_port(url, key)
        self._call("/workers", body)
        healthy = f"{url} did not become a worker"
        self._wait(lambda workers: workers.get(url, {}).get("is_healthy", False), healthy, meanwhile)

    def remove(self, url: str) -> None:
        """Send the engine at `url` nothing more; returns once it is off the list. Nothing to do if it is not on it."""
        worker = self.workers().get(url)
        if worker is None:
            return
        self._call(f"/workers/{quote(worker['id'], safe='')}", method="DELETE")
        self._wait(lambda workers: url not in workers, f"{url} is still a worker")

    def _wait(self, condition: Any, complaint: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """The router answers 202 and acts later: look until it has, or the time is up."""
        deadline = time.monotonic() + self._timeout
        while not condition(self.workers()):
            meanwhile()
            if time.monotonic() > deadline:
                raise CallError(f"{self.url}/workers: {complaint} within {self._timeout:g} s")
            time.sleep(0.05)

    def _call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        return call(self.url, path, self._api_key, body, method=method, timeout=self._timeout)


def at_once(tell: Callable[[Any], None], of: Sequence[Any]) -> None:
    """Tell a router of several engines beside each other: it answers each call some time later."""
    with ThreadPoolExecutor(min(max(len(of), 1), _AT_ONCE), "router") as threads:
        list(threads.map(tell, of))
