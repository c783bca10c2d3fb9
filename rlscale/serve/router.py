"""The router in front of the engines: how it is started, and the calls by which it learns its workers.

It balances and retries `/generate` and the OpenAI routes. Control calls (weights, abort, pause, memory) are not
forwarded; they go to each engine directly (`EngineReceiver`).
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import quote

from rlscale.config.errors import UserError
from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.http import CallError, call, told
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


Meanwhile = Callable[[], None]


def nothing() -> None:
    """What is done meanwhile by default."""


class WorkerList(ABC):
    """A router's list of workers. Calls block; each raises CallError if the router does not do what it is told."""

    timeout = 60.0
    """Seconds for an answer, and as long again for what comes of it."""
    look_every_s = 0.05
    """Between two looks whether the router has done it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def add(self, url: str, role: Role = Role.regular, meanwhile: Meanwhile = nothing) -> None:
        """Make the engine at `url` a worker; returns once the router sends it requests.

        `meanwhile` runs between two looks, and may raise.
        """
        self.begin_add(url, role, meanwhile)
        self._wait(lambda: self.healthy(url, meanwhile) is True, f"{url} did not become a worker", meanwhile)

    def remove(self, url: str) -> None:
        """Send the engine at `url` nothing more; returns once it is off the list. Nothing to do if it is not on it."""
        if self.begin_remove(url):
            self._wait(lambda: self.healthy(url) is None, f"{url} is still a worker", nothing)

    @abstractmethod
    def begin_add(self, url: str, role: Role = Role.regular, meanwhile: Meanwhile = nothing) -> None:
        """Tell it to add the engine, without waiting until it has; `meanwhile` runs while others have their turn."""

    @abstractmethod
    def begin_remove(self, url: str) -> bool:
        """Tell it to remove the engine, without waiting until it has; whether that is on the list."""

    @abstractmethod
    def healthy(self, url: str, meanwhile: Meanwhile = nothing) -> bool | None:
        """Whether the router sends the engine at `url` requests; None where that one is not on its list."""

    def _wait(self, condition: Callable[[], bool], complaint: str, meanwhile: Meanwhile) -> None:
        """The router answers 202 and acts later: look until it has, or the time is up."""
        deadline = time.monotonic() + self.timeout
        while not condition():
            meanwhile()
            if time.monotonic() > deadline:
                raise CallError(f"{self.url}/workers: {complaint} within {self.timeout:g} s")
            time.sleep(self.look_every_s)


class RouterClient(WorkerList):
    """That of a router which this machine reaches. Everybody is answered at once: nobody waits for a turn."""

    def __init__(self, url: str, api_key: str | None, timeout: float = WorkerList.timeout) -> None:
        """`api_key` is the router's and its engines'."""
        super().__init__(url)
        self._api_key = api_key
        self.timeout = timeout

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the router knows of its workers, by their URL: at least `id` and `is_healthy`."""
        path = "/workers"
        answer = told(self.url, path, self._api_key, has=("workers", list), timeout=self.timeout)
        try:
            return {worker["url"]: worker for worker in answer["workers"]}
        except (TypeError, KeyError):
            raise CallError(f"{self.url}{path}: the answer has no workers with a url") from None

    def begin_add(self, url: str, role: Role = Role.regular, meanwhile: Meanwhile = nothing) -> None:
        """See WorkerList."""
        body: dict[str, Any] = {"url": url, "api_key": self._api_key} if self._api_key else {"url": url}
        if role is not Role.regular:
            body["worker_type"] = role.value
        if role is Role.prefill:
            body["bootstrap_port"] = bootstrap_port(url, self._api_key, self.timeout)
        self._call("/workers", body)

    def begin_remove(self, url: str) -> bool:
        """See WorkerList."""
        worker = self.workers().get(url)
        if worker is not None:
            self._call(f"/workers/{quote(worker['id'], safe='')}", method="DELETE")
        return worker is not None

    def healthy(self, url: str, meanwhile: Meanwhile = nothing) -> bool | None:
        """See WorkerList."""
        worker = self.workers().get(url)
        return None if worker is None else bool(worker.get("is_healthy", False))

    def _call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        return call(self.url, path, self._api_key, body, method=method, timeout=self.timeout)


def at_once(tell: Callable[[Any], None], of: Sequence[Any]) -> None:
    """Tell a router of several engines beside each other: it answers each call some time later."""
    with ThreadPoolExecutor(min(max(len(of), 1), _AT_ONCE), "router") as threads:
        telling = [threads.submit(tell, one) for one in of]
    for one in telling:  # after an error of one it has been told of the others as well
        one.result()


def add_at_once(
    add: Callable[[str, Callable[[], None]], None], urls: Sequence[str], look: Callable[[], Mapping[str, UserError]]
) -> dict[str, UserError]:
    """Add several engines beside each other; which of them the router does not know then, by their URLs, and why.

    `add(url, meanwhile)` runs in threads. `look` runs in this one alone, again and again: it says with which engines
    that is of no use any more, and why, or gives all up with what it raises.
    """
    given_up: dict[str, UserError] = {}

    def one(url: str) -> None:
        def go_on() -> None:
            if (error := given_up.get(url)) is not None:
                raise error

        go_on()
        add(url, go_on)

    with ThreadPoolExecutor(min(max(len(urls), 1), _AT_ONCE), "router") as threads:
        adding = {threads.submit(one, url): url for url in urls}
        left: Collection[Future[None]] = adding
        try:
            while left := wait(left, WorkerList.look_every_s).not_done:
                given_up.update(look())
        except BaseException as error:
            given_up.update({url: CallError(f"{url}: given up ({error})") for url in urls})
            raise
    found: dict[str, UserError] = {}
    for added, url in adding.items():
        failure = added.exception()
        if isinstance(failure, UserError):
            found[url] = failure
        elif failure is not None:
            raise failure
    return found
