"""On which addresses this process listens."""

from __future__ import annotations

import psutil


def listening(port: int) -> list[str]:
    """Those on which it does at a port."""
    found = psutil.Process().net_connections(kind="inet")
    return [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
