"""Asking an SGLang server for more than tokens and log-probs, through the router.

The router builds a request anew from the fields that it knows (up to 0.3.2), and neither `return_routed_experts` nor
`return_sampling_mask` is one of them. Of the headers it passes on those whose names begin with `x-request-id-`. SGLang
sets fields of a request from headers where its environment says so, but knows no headers for these: they are added to
its list here, on every device, in the server's own process.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from rlscale.config.derived.needed_weights import FIELDS, refusal
from rlscale.config.derived.request_headers import ENGINE_HEADER, ROUTED_EXPERTS_HEADER, SAMPLING_SUPPORT_HEADER

ENVIRONMENT = {"SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES": "1"}
"""What a server that is to heed them needs besides."""

_SERVER = "sglang.srt.entrypoints.http_server"


def tell_address(app: Any) -> None:
    """The server's application: every answer says in a header which engine it is by; routers pass headers on."""
    app.add_middleware(_TellingAddress)


class _TellingAddress:
    """A middleware, by the interface of ASGI."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        if scope["type"] != "http" or not scope.get("server"):
            return await self._app(scope, receive, send)
        host, port = scope["server"]
        header = ENGINE_HEADER.lower().encode(), f"{host}:{port}".encode()

        async def tell(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        return await self._app(scope, receive, tell)


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
