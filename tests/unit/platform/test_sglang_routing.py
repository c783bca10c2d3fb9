"""A header asks SGLang for the experts that it chose: the places that this relies on are as they were."""

from __future__ import annotations

import importlib.metadata
import types
from pathlib import Path

import pytest

from rlscale.config.expert_routing import ROUTED_EXPERTS_HEADER
from rlscale.platform import sglang_routing

PLACES = {
    "sglang/srt/entrypoints/request_headers.py": [
        "_HEADER_OVERRIDES = {",
        "for header, (attr, cast) in _HEADER_OVERRIDES.items():",
        "setattr(obj, attr, cast(value))",
        "except ValueError as e:",
    ],
    "sglang/srt/entrypoints/http_server.py": [
        "if envs.SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES.get():\n        apply_header_overrides(obj, request.headers)",
    ],
    "sglang/srt/managers/io_struct.py": ["    return_routed_experts: bool = False\n"],
    "sglang/srt/server_args.py": ["    enable_return_routed_experts: A["],
}
"""File -> what is relied on in it."""


@pytest.mark.parametrize("file", PLACES)
def test_the_places_that_the_header_relies_on_look_as_they_did(file: str) -> None:
    text = Path(str(importlib.metadata.distribution("sglang").locate_file(file))).read_text()
    for snippet in PLACES[file]:
        assert snippet in text, f"{file} no longer has {snippet!r}: see rlscale/platform/sglang_routing.py"


def test_the_header_is_added_to_sglangs_list_and_takes_1_and_0() -> None:
    module = types.ModuleType("request_headers")
    module._HEADER_OVERRIDES = {"x-override-rid": ("rid", str)}  # type: ignore[attr-defined]  # stands for SGLang's
    sglang_routing.heed_header(module)
    field, cast = module._HEADER_OVERRIDES[ROUTED_EXPERTS_HEADER]  # type: ignore[attr-defined]  # as above
    assert field == "return_routed_experts"
    assert (cast("1"), cast("0")) == (True, False)
    with pytest.raises(ValueError, match="must be 0 or 1"):
        cast("true")
    assert "x-override-rid" in module._HEADER_OVERRIDES  # type: ignore[attr-defined]  # as above
