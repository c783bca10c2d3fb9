"""An answer that comes in parts, so that what an engine has said of it is there when the engine is not.

SGLang sends `data: {...}` with the tokens that are new, every `KEPT_EVERY` of them (`stream_interval` of a server), and
once more at the end. Which weights generated them it says with the last part only, unless rlscale has started it
(`rlscale.platform.sglang_streamed`); where it does not, nothing is kept.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from rlscale.config.derived.streaming import KEPT_EVERY

INTERRUPTED = "interrupted"
"""The key in `meta_info` of an answer that its engine did not finish."""

_OF_TOKENS = (
    "output_token_logprobs",
    "output_top_logprobs",
    "output_token_sampling_mask",
    "output_token_sampling_logprobs",
)
"""What `meta_info` lists token by token."""
_END = b"\n\n"


class StreamedAnswer:
    """The parts of one answer, put together."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Any]] = {}
        self._meta: dict[str, Any] | None = None

    def hear(self, part: Mapping[str, Any]) -> tuple[int, str] | None:
        """Take the next part. Where it says that the request failed instead: HTTP status and message."""
        if "error" in part:
            error = part["error"]
            return int(error.get("code") or 500), str(error.get("message"))
        meta = dict(part["meta_info"])
        reason = meta.get("finish_reason") or {}
        if reason.get("type") == "abort" and reason.get("status_code"):
            return int(reason["status_code"]), str(reason.get("message"))
        count: Any = meta.get("completion_tokens")
        for name in _OF_TOKENS:
            if new := meta.get(name):
                # All of them at once: of an engine that knows no other way, and of a request aborted while it waits,
                # behind what was new before.
                all_of_them = count is not None and len(new) >= count
                self._lists[name] = new[len(new) - count :] if all_of_them else [*self._lists.get(name, ()), *new]
        self._meta = meta
        return None

    @property
    def whole(self) -> dict[str, Any] | None:
        """The answer as one that does not come in parts; None before its end."""
        if self._meta is None or self._meta.get("finish_reason") is None:
            return None
        return {"meta_info": {**self._meta, **self._lists}}

    @property
    def kept(self) -> dict[str, Any] | None:
        """What there is of one that ends here, as of a request that was aborted; None where nothing is of use."""
        if self._meta is None or not self._lists.get(_OF_TOKENS[0]) or not self._meta.get("weight_versions"):
            return None
        ended = {"finish_reason": {"type": "abort", "message": "the engine did not finish it"}, INTERRUPTED: True}
        return {"meta_info": {**self._meta, **self._lists, **ended}}


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The JSON of each event of a stream, up to its `[DONE]`. ConnectionError if it ends before that."""
    text = b""
    async for chunk in chunks:
        *whole, text = (text + chunk).split(_END)
        for event in whole:
            data = event.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            try:
                yield json.loads(data)
            except ValueError as error:
                raise ConnectionError(f"the answer is no JSON: {data[:200]!r}") from error
    raise ConnectionError("the answer broke off")


def in_parts(most: int) -> bool:
    """Whether a request for at most so many tokens asks for its answer in parts: a shorter one would have none."""
    return most > KEPT_EVERY
