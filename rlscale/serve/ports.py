"""Free ports, and the addresses under which others reach them."""

from __future__ import annotations

import socket

ANY_ADDRESSES = ("0.0.0.0", "::", "")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on that port of `host` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is no hindrance
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str, preferred: int | None = None) -> int:
    """`preferred` if it is free, otherwise one that the system picks. It may be taken before it is used: retry then."""
    if preferred is not None and is_free(host, preferred):
        return preferred
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


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
