"""Free ports for servers and for ranks to meet at."""

from __future__ import annotations

import random
import socket

CANDIDATES = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections (from 32768), one of which could take a port between the
moment it is found free and the moment it is listened on."""
_TRIES = 100


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on that port of `host` now."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT does not matter
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str, preferred: int | None = None) -> int:
    """`preferred` if it is free, otherwise one drawn at random. It may be taken before it is used: retry then."""
    if preferred is not None and is_free(host, preferred):
        return preferred
    draw = random.SystemRandom()  # the ranks of a run seed the module's own alike, and would all try the same ports
    for port in draw.sample(CANDIDATES, _TRIES):
        if is_free(host, port):
            return port
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
