"""The store at which processes meet: on the address that is named, and on no other."""

from __future__ import annotations

import datetime
import importlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from rlscale.platform.ports import free_port
from rlscale.platform.rendezvous import bind_to_named_host, store_at
from tests.unit.listening import listening

SHORT = datetime.timedelta(seconds=20)


def test_the_store_listens_on_the_named_address_alone_and_torchs_own_does_not() -> None:
    port = free_port("127.0.0.1")
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(store_at, "127.0.0.1", port, 1, 2, SHORT)
        served = store_at("127.0.0.1", port, 0, 2, SHORT)
        client.result().set("key", "value")
    assert served.get("key") == b"value"
    assert listening(port) == ["127.0.0.1"]
    other = free_port("127.0.0.1")
    store = dist.TCPStore("127.0.0.1", other, 1, is_master=True, timeout=SHORT)
    assert listening(other) != ["127.0.0.1"], "torch binds to the named host by now: platform/rendezvous.py can go"
    del store


def test_a_port_that_is_taken_is_an_error_and_not_somebody_elses_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        store_at("127.0.0.1", taken.getsockname()[1], 0, 1, SHORT)


def test_a_url_of_torchs_meets_at_such_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setitem(torchs._rendezvous_handlers, "tcp", torchs._rendezvous_handlers["tcp"])
    bind_to_named_host()
    port = free_port("127.0.0.1")
    store, rank, size = next(torchs.rendezvous(f"tcp://127.0.0.1:{port}", 0, 1, timeout=SHORT))
    store.set("key", "value")
    assert (rank, size, store.get("key"), listening(port)) == (0, 1, b"value", ["127.0.0.1"])


def test_a_rank_that_comes_milliseconds_before_rank_0_does_not_wait_out_torchs_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which is at least a quarter of a second."""
    refused, connect = threading.Event(), socket.create_connection

    def look(*where: Any, **how: Any) -> socket.socket:
        try:
            return connect(*where, **how)
        except ConnectionRefusedError:
            refused.set()
            raise

    monkeypatch.setattr(socket, "create_connection", look)

    def seconds_after_rank_0() -> float:
        port = free_port("127.0.0.1")
        refused.clear()
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(lambda: (store_at("127.0.0.1", port, 1, 2, SHORT), time.monotonic()))
            came_first = refused.wait(10)
            began = time.monotonic()
            served = store_at("127.0.0.1", port, 0, 2, SHORT)
            joined = client.result()[1] - began
        assert came_first
        del served
        return joined

    assert any(seconds_after_rank_0() < 0.15 for _ in range(20))
