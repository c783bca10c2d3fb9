"""Calls to a server that answers in a strange way: as far as it answers, and no longer than there is time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from rlscale.serve.http import NO_PROXY, CallError, Unanswered, call
from rlscale.serve.http_deadline import WithinTimeout

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Callable[[list[bytes], float], str]]:
    """`server(parts, pause_s)`: the URL of something that sends these one after another, and then closes."""
    listeners = []

    def start(parts: list[bytes], pause_s: float) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause_s)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


WHOLE = [HEAD, b"[1, ", b"2]" + b" " * 394]
WHOLE_CHUNKS = [CHUNKED, b"4\r\n[1, \r\n", b"2\r\n2]\r\n0\r\n\r\n"]


@pytest.mark.parametrize("parts", [WHOLE, WHOLE_CHUNKS])
def test_an_answer_may_come_in_pieces(server: Callable[[list[bytes], float], str], parts: list[bytes]) -> None:
    assert call(server(parts, 0.05), "/", None, timeout=5.0) == [1, 2]


@pytest.mark.parametrize("head", [HEAD, CHUNKED])
def test_an_answer_that_is_cut_off_is_none(server: Callable[[list[bytes], float], str], head: bytes) -> None:
    with pytest.raises(Unanswered, match="broken answer"):
        call(server([head, b"64\r\n[1, 2]" if head is CHUNKED else b"[1, 2]"], 0.0), "/", None, timeout=5.0)


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (HEAD, b" "),
        (HEAD.replace(b"200 OK", b"500 No"), b" "),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["content", "a refusal", "a header", "promises"],
)
def test_one_that_drips_is_none_when_the_time_is_up(
    server: Callable[[list[bytes], float], str], first: bytes, drop: bytes
) -> None:
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0\.5 s"):
        call(server([first, *[drop] * 400], 0.05), "/", None, timeout=0.5)
    assert time.monotonic() - began < 2.0


def test_who_names_another_place_is_not_followed(server: Callable[[list[bytes], float], str]) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(CallError, match="status 302"):
        call(server([moved], 0.0), "/", "key", timeout=5.0)


def test_both_kinds_of_connection_have_a_time_for_the_whole_answer() -> None:
    openers = NO_PROXY.handle_open  # type: ignore[attr-defined]  # known to urllib alone
    assert [type(one) for kind in ("http", "https") for one in openers[kind]] == [WithinTimeout] * 2


def test_a_refusal_is_told_with_what_it_says(server: Callable[[list[bytes], float], str]) -> None:
    refusal = b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nwhy"
    with pytest.raises(CallError, match="status 403: why"):
        call(server([refusal], 0.0), "/", None, timeout=5.0)
