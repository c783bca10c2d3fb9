"""Engines that do a part of a request each: one reads the prompt, another generates from what that one read.

Both are sent the request. It names where the first one tells of its keys and values (its bootstrap port), and a number
(the room) under which the second one asks there. The router adds both; who asks without a router, does so here.
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from rlscale.serve.http import told

ALONE: dict[str, Any] = {"bootstrap_host": "2.2.2.2", "bootstrap_room": 0}
"""In a request that one engine is to answer by itself, as SGLang's own warm-up has it: nothing is handed over. One that
only generates does so from keys and values that nobody computed."""


def bootstrap_port(url: str, api_key: str | None, timeout: float = 60.0) -> int:
    """Where the engine at `url`, which reads prompts, tells of what it has. CallError if it does not say."""
    says = "disaggregation_bootstrap_port"
    return int(told(url, "/server_info", api_key, has=(says, int), timeout=timeout)[says])


def together(url: str, port: int) -> dict[str, Any]:
    """In a request that is sent to the engine at `url` and to one that generates: a room of the first one's."""
    return {"bootstrap_host": urlsplit(url).hostname, "bootstrap_port": port, "bootstrap_room": secrets.randbits(62)}
