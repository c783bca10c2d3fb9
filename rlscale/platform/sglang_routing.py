"""Asking an SGLang server for the experts that it chose, through the router.

The router builds a request anew from the fields that it knows, and `return_routed_experts` is none of them (up to
0.3.2). Of the headers it passes on those whose names begin with `x-request-id-`. SGLang sets fields of a request from
headers where its environment says so, but knows no header for this one: it is added to its list here, on every device,
in the server's own process.
"""

from __future__ import annotations

from typing import Any

from rlscale.config.expert_routing import ROUTED_EXPERTS_HEADER

ENVIRONMENT = {"SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES": "1"}
"""What a server that is to heed it needs besides."""


def heed_header(module: Any) -> None:
    """sglang.srt.entrypoints.request_headers: the header sets the request's field."""
    module._HEADER_OVERRIDES[ROUTED_EXPERTS_HEADER] = ("return_routed_experts", _flag)


def _flag(text: str) -> bool:
    """SGLang answers a ValueError with status 400."""
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"
