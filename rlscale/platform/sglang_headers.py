"""Asking an SGLang server for more than tokens and log-probs, through the router.

The router builds a request anew from the fields that it knows (up to 0.3.2), and neither `return_routed_experts` nor
`return_sampling_mask` is one of them. Of the headers it passes on those whose names begin with `x-request-id-`. SGLang
sets fields of a request from headers where its environment says so, but knows no headers for these: they are added to
its list here, on every device, in the server's own process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rlscale.config.needed_weights import FIELDS, refusal
from rlscale.config.request_headers import ROUTED_EXPERTS_HEADER, SAMPLING_SUPPORT_HEADER

ENVIRONMENT = {"SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES": "1"}
"""What a server that is to heed them needs besides."""

_SERVER = "sglang.srt.entrypoints.http_server"


def heed_headers(module: Any) -> None:
    """sglang.srt.entrypoints.request_headers: the headers set the request's fields."""
    module._HEADER_OVERRIDES[ROUTED_EXPERTS_HEADER] = ("return_routed_experts", _flag)
    module._HEADER_OVERRIDES[SAMPLING_SUPPORT_HEADER] = ("return_sampling_mask", _flag)
    for header, field in FIELDS.items():
        module._HEADER_OVERRIDES[header] = (field, _version(field, module.HTTPException))


def _version(field: str, refused: type[Exception]) -> Callable[[str], int]:
    """Reads a version, and ends a request that needs other weights with status 503: routers ask another engine then."""

    def read(text: str) -> int:
        wanted = int(text)
        server = sys.modules[_SERVER]._global_state  # the one that reads the header
        if why := refusal(field, wanted, str(server.tokenizer_manager.config_value("weight_version"))):
            raise refused(status_code=503, detail=why)  # type: ignore[call-arg]  # fastapi's, which is imported there
        return wanted

    return read


def _flag(text: str) -> bool:
    """SGLang answers a ValueError with status 400."""
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"
