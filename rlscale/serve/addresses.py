"""The addresses under which others reach a server."""

from __future__ import annotations

import socket

ANY_ADDRESSES = ("0.0.0.0", "::", "")


def reachable_address(host: str) -> str:
    """The address under which a server that listens on `host` is reached: this machine's where that is all of them."""
    if host not in ANY_ADDRESSES:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only picks the interface of the default route
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def url_of(host: str, port: int) -> str:
    """The base URL of a server that listens on `host`."""
    address = reachable_address(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
