"""HTTP answers that are there by a moment, or not at all: one that drips has no pause that would be too long."""

from __future__ import annotations

import io
import time
import urllib.request
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from socket import socket
from typing import Any, cast


class _InTime(io.RawIOBase):
    """What comes from a socket. TimeoutError for what is not there at `until`, by `time.monotonic`."""

    def __init__(self, raw: io.RawIOBase, from_socket: socket, until: float) -> None:
        self._raw, self._socket, self._until = raw, from_socket, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """Status and headers too: they may drip as the rest."""

    def __init__(self, sock: socket, *args: Any, until: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), sock, until))


class _Begun(HTTPConnection):
    """A connection whose time begins before it is made."""

    def connect(self) -> None:
        """See HTTPConnection."""
        assert self.timeout is not None
        made = partial(_Response, until=time.monotonic() + self.timeout)
        self.response_class = cast("type[HTTPResponse]", made)  # it is only ever called
        super().connect()


class _Secured(_Begun, HTTPSConnection):
    """The same with TLS."""


class WithinTimeout(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens requests whose `timeout` is that of the whole answer, which urllib's is not."""

    def http_open(self, req: urllib.request.Request) -> Any:
        """See HTTPHandler."""
        return self.do_open(_Begun, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        """See HTTPSHandler."""
        return self.do_open(_Secured, req)


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes an answer that names another place for one that is no success.

    No server that is asked here moves; the time would begin anew there, and the key would go to whoever it is.
    """

    def redirect_request(self, *_: Any) -> None:
        """See HTTPRedirectHandler."""
