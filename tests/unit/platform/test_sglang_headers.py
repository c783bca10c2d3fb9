"""A header asks SGLang for the experts that it chose: the places that this relies on are as they were."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from rlscale.config.derived.needed_weights import NEWEST_HEADER, OLDEST_HEADER
from rlscale.config.derived.request_headers import ROUTED_EXPERTS_HEADER, SAMPLING_SUPPORT_HEADER
from rlscale.platform import sglang_headers

FIELDS = {ROUTED_EXPERTS_HEADER: "return_routed_experts", SAMPLING_SUPPORT_HEADER: "return_sampling_mask"}

PLACES = {
    "sglang/srt/entrypoints/request_headers.py": [
        "_HEADER_OVERRIDES = {",
        "for header, (attr, cast) in _HEADER_OVERRIDES.items():",
        "setattr(obj, attr, cast(value))",
        "except ValueError as e:",
    ],
    "sglang/srt/entrypoints/http_server.py": [
        '"weight_version": _global_state.tokenizer_manager.config_value(',
        "if envs.SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES.get():\n        apply_header_overrides(obj, request.headers)",
    ],
    "sglang/srt/managers/tokenizer_control_mixin.py": ["self._update_weight_version_if_provided(obj.weight_version)"],
    "sglang/srt/managers/io_struct.py": [
        "    return_routed_experts: bool = False\n",
        "    return_sampling_mask: Optional[Union[List[bool], bool]] = None\n",
    ],
    "sglang/srt/managers/tokenizer_manager.py": [
        'meta_info["output_token_sampling_mask"] = (',
        'meta_info["output_token_sampling_logprobs"] = (',
    ],
    "sglang/srt/layers/sampler.py": [
        "effective_keep_mask = keep_mask | sampled_matches_all",
        "/ support_mass.float().clamp_min(torch.finfo(torch.float32).tiny)",
    ],
    "sglang/srt/server_args.py": ["    enable_return_routed_experts: A["],
}
"""File -> what is relied on in it."""


@pytest.mark.parametrize("file", PLACES)
def test_the_places_that_the_header_relies_on_look_as_they_did(file: str) -> None:
    text = Path(str(importlib.metadata.distribution("sglang").locate_file(file))).read_text()
    for snippet in PLACES[file]:
        assert snippet in text, f"{file} no longer has {snippet!r}: see rlscale/platform/sglang_headers.py"


def test_the_headers_are_added_to_sglangs_list_and_take_1_and_0() -> None:
    module = types.ModuleType("request_headers")
    module._HEADER_OVERRIDES = {"x-override-rid": ("rid", str)}  # type: ignore[attr-defined]  # stands for SGLang's
    module.HTTPException = HTTPException  # type: ignore[attr-defined]  # as above
    sglang_headers.heed_headers(module)
    for header, name in FIELDS.items():
        field, cast = module._HEADER_OVERRIDES[header]  # type: ignore[attr-defined]  # as above
        assert field == name
        assert (cast("1"), cast("0")) == (True, False)
        with pytest.raises(ValueError, match="must be 0 or 1"):
            cast("true")
    assert "x-override-rid" in module._HEADER_OVERRIDES  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize(
    ("header", "held", "wanted", "refused"),
    [
        (OLDEST_HEADER, "4", "4", False),
        (OLDEST_HEADER, "5", "4", False),
        (OLDEST_HEADER, "3", "4", True),
        (OLDEST_HEADER, "default", "0", True),
        (NEWEST_HEADER, "4", "4", False),
        (NEWEST_HEADER, "5", "4", True),
    ],
)
def test_an_engine_without_the_weights_that_a_request_needs_refuses_it_and_routers_ask_another(
    header: str, held: str, wanted: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = types.SimpleNamespace(config_value={"weight_version": held}.__getitem__)
    server: Any = types.SimpleNamespace(_global_state=types.SimpleNamespace(tokenizer_manager=manager))
    monkeypatch.setitem(sys.modules, "sglang.srt.entrypoints.http_server", server)
    module: Any = types.SimpleNamespace(_HEADER_OVERRIDES={}, HTTPException=HTTPException)
    sglang_headers.heed_headers(module)
    _, read = module._HEADER_OVERRIDES[header]
    if not refused:
        assert read(wanted) == int(wanted)
        return
    with pytest.raises(HTTPException) as found:
        read(wanted)
    assert (found.value.status_code, found.value.detail) == (
        503,
        f"the engine holds weight version {held}, and the request wants {wanted}",
    )


def test_every_answer_says_which_engine_it_is_by() -> None:
    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"server", b"x")]})
        await send({"type": "http.response.body", "body": b"{}"})

    class App:
        def add_middleware(self, kind: Any) -> None:
            self.made = kind(application)

    app, sent = App(), []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    sglang_headers.tell_address(app)
    asyncio.run(app.made({"type": "http", "server": ("127.0.0.1", 30001)}, None, send))
    assert sent[0]["headers"] == [(b"server", b"x"), (b"x-rlscale-engine", b"127.0.0.1:30001")]
    assert sent[1] == {"type": "http.response.body", "body": b"{}"}
