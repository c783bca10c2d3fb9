"""An engine's answer to a request, read: SGLang's JSON in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.fields import SUPPORT
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampler_words import sampler_words_of
from rlscale.rollout.engines.sampling_support import SAMPLING_MASK, support_of
from rlscale.rollout.engines.spans import versions_of
from rlscale.rollout.engines.streamed_answer import INTERRUPTED


def generation_of(
    answer: dict[str, Any],
    prompt: int,
    experts: ExpertSizes | None = None,
    names_support: bool = False,
    named_words: int = 0,
) -> Generation:
    """What an engine's answer to a request with a prompt of so many tokens says. RequestFailed if it is of no use."""
    meta = answer["meta_info"]
    entries = meta.get("output_token_logprobs") or []
    reason = meta["finish_reason"]
    routed = None
    try:
        versions = versions_of(meta, len(entries))
    except ValueError as error:
        raise RequestFailed(f"weight versions: {error}") from error
    if experts is not None and (reason["type"] != "abort" or meta.get("routed_experts") is not None):
        try:
            routed = experts.decode(meta.get("routed_experts"), prompt + len(entries) - 1)
        except ValueError as error:
            raise RequestFailed(f"routed experts: {error}") from error
    tokens, logprobs = _columns_of(entries)
    columns: dict[str, NDArray[Any]] = {}
    if names_support and len(tokens) and (reason["type"] != "abort" or meta.get(SAMPLING_MASK)):
        try:
            columns[SUPPORT.name], logprobs = support_of(meta, tokens)
        except ValueError as error:
            raise RequestFailed(f"sampling support: {error}") from error
    if named_words and len(tokens):
        try:
            columns |= sampler_words_of(meta, tokens, named_words, columns.get(SUPPORT.name))
        except ValueError as error:
            raise RequestFailed(f"likeliest words: {error}") from error
    return Generation(
        tokens=tokens,
        logprobs=logprobs,
        finish_reason=reason["type"],
        versions=versions,
        message=str(reason.get("message") or ""),
        routed_experts=routed,
        columns=columns,
        interrupted=bool(meta.get(INTERRUPTED)),
    )


def _columns_of(entries: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Tokens and log-probs of `[log-prob, token, text]` each; a log-prob that is null is nan."""
    if hasattr(entries, "columns"):  # of an engine in this process, whose answers are no JSON
        tokens, logprobs = entries.columns()
        return tokens, logprobs
    values, words, *_ = zip(*entries, strict=True) if entries else ((), ())
    return np.array(words, np.int32), np.array(values, np.float32)
