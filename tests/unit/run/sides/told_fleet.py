"""A launcher of two engines and a router whose calls are answered at once, as tests tell it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.stop_signal import StopRequested
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.serve.http import CallError


def _answered(answer: Any, *_: Any, **__: Any) -> Any:
    """In place of waiting for it."""
    return answer


class Fleet:
    """A launcher of two engines and a router, its calls answered at once. `down` by the name of the server."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, roles: tuple[Role, Role] = (Role.regular, Role.regular), **down: str
    ) -> None:
        self.down = dict(down)
        self.frees: dict[str, str] = {}
        """Who answers again once another one was restarted."""
        self.asked: list[tuple[Any, ...]] = []
        self.notes: list[str] = []
        self.given: list[list[str]] = []
        """The engines that were given weights, together."""
        self.router_is_gone = self.stopping = False
        self.keeps = ""
        """The engine that the router does not remove."""
        self.frozen = ""
        """The engine that does not answer the router."""
        self.patience_s = 0.1
        """How long the router waits for it."""
        self.lookers: set[int] = set()
        """Threads that asked what is down."""
        self.joined: list[tuple[str, Role]] = []
        calls: Any = SimpleNamespace(patience_s=20.0, one=_answered, wait=_answered, check_stop=self._check_stop)
        calls.stopping = False
        none: Any = None
        groups = [f"rollout.engine_groups.{role.value}.role={role.value}" for role in {*roles} - {Role.regular}]
        self.engines = Engines(compose(None, groups), none, [], calls, Path(), Path(), self.notes.append)
        launcher: Any = SimpleNamespace(call=SimpleNamespace(remote=self._call))
        self.engines._launchers = {0: launcher}
        for name, role in zip(("engine-0", "engine-1"), roles, strict=True):
            spec: Any = SimpleNamespace(name=name, role=role, tensor_parallel=1)
            self.engines._engines.append(Engine(spec, launcher, f"http://{name}"))
        router: Any = SimpleNamespace(remove=self._router, add=self._add)
        monkeypatch.setattr(Engines, "_router_client", lambda _: router)

    def _check_stop(self) -> None:
        if self.stopping:
            raise StopRequested

    def _router(self, url: str) -> None:
        if self.router_is_gone or url == self.keeps:
            raise CallError(f"{url}: refused")

    def _add(self, url: str, role: Role, meanwhile: Any) -> None:
        if url == self.frozen:  # as a router that waits for it, in which nobody is healthy
            self.down |= {url.removeprefix("http://"): "did not answer for 20 s"}
            give_up = time.monotonic() + self.patience_s
            while time.monotonic() < give_up:
                meanwhile()
                time.sleep(0.01)
            raise CallError(f"{url} did not become a worker within 60 s")
        self.joined.append((url, role))

    def _call(self, method: str, *args: Any) -> Any:
        self.asked.append((method, *args))
        if method == "down":
            self.lookers.add(threading.get_ident())
            return dict(self.down)
        self.down.pop(args[0], None)
        self.down.pop(self.frees.get(args[0], ""), None)
        return f"http://{args[0]}"

    def heal(self) -> list[str]:
        """Mend what is down; the servers that were restarted."""
        self.engines.heal(self.given.append, lambda url: None)
        return [call[1] for call in self.asked if call[0] == "restart"]
