"""Where processes of one job meet: torch's TCPStore, listening on the address that they are told and on no other.

torch's own binds to every interface of the machine whatever host it is given, and asks nobody for a key: whoever
reaches the port can read and write what the ranks tell each other. Here rank 0 binds the socket that torch listens on.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

DEFAULT_TIMEOUT = timedelta(minutes=30)
_NEAR_S, _GLANCE_S = 2.0, 0.01
"""For how long, and how often, a rank looks whether rank 0 listens by now, before it leaves the waiting to torch."""


def store_at(host: str, port: int, rank: int, world_size: int, timeout: timedelta = DEFAULT_TIMEOUT) -> Any:
    """A TCPStore at `host`:`port`, which rank 0 serves on that address alone. OSError if it cannot be listened on."""
    import torch.distributed as dist

    if rank != 0:
        _await_listener(host, port, min(timeout.total_seconds(), _NEAR_S))
        return dist.TCPStore(host, port, world_size, is_master=False, timeout=timeout)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # The store closes the socket's descriptor when it ends.
    return dist.TCPStore(host, port, world_size, is_master=True, timeout=timeout, master_listen_fd=listener.detach())


def _await_listener(host: str, port: int, seconds: float) -> None:
    """Return when somebody listens there, or after `seconds`.

    Ranks that start together are too early by milliseconds, and torch's client sleeps about half a second when it is
    refused.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((host, port), timeout=seconds):
            return
        time.sleep(_GLANCE_S)


def bind_to_named_host() -> None:
    """Have torch's `tcp://host:port` rendezvous in this process bind to that host. SGLang meets in no other way."""
    handlers = importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers
    handlers["tcp"] = _meet


def _meet(url: str, timeout: timedelta = DEFAULT_TIMEOUT, **_: Any) -> Iterator[tuple[Any, int, int]]:
    """torch's handler of tcp:// URLs, which end in `?rank=...&world_size=...`."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    rank, world_size = int(query["rank"][0]), int(query["world_size"][0])
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url} is not a meeting point; write it as tcp://host:port")
    yield store_at(parts.hostname, parts.port, rank, world_size, timeout), rank, world_size
    raise RuntimeError("a meeting point at tcp:// cannot be met at twice")
