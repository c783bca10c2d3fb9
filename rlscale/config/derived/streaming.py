"""How often an engine hands over what it has generated of a long response."""

from __future__ import annotations

KEPT_EVERY = 64
"""Tokens of a response after which an engine sends them (its option `stream_interval`)."""

IN_PARTS = {"stream_interval": KEPT_EVERY, "incremental_streaming_output": True}
"""The options of SGLang's server by which it does, the new ones alone."""


def sends_parts(options: dict[str, object]) -> bool:
    """Whether a server of these options sends answers in parts that are worth the work."""
    interval = options.get("stream_interval")
    return bool(options.get("incremental_streaming_output")) and isinstance(interval, int) and interval > 1
