"""What a simulated engine says: SGLang's JSON."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.engine_request import EngineRequest
from rlscale.serve.simulator.running_batch import RunningBatch, Slot
from rlscale.serve.simulator.token_entries import TokenEntries
from rlscale.serve.simulator.token_stream import drawn, logprobs_of, mixed


def answer_to(
    slot: Slot[EngineRequest], reason: dict[str, Any], config: SimulatedEngineConfig
) -> tuple[dict[str, Any], NDArray[np.int32]]:
    """The answer to a request, and its whole sequence. Its last span must be closed.

    Tokens are arrays, and `TokenEntries`: whoever makes JSON of the answer lists them (`tolist`).
    """
    request, count = slot.request, slot.done
    tokens, logprobs = _generated(request, config)
    if count == slot.length and request.finish == "stop":
        tokens[-1] = request.ends[mixed(5, request.seed) % len(request.ends)]
    if reason["type"] == "stop":
        reason = {"type": "stop", "matched": int(tokens[-1])}
    elif reason["type"] == "length":
        reason = {"type": "length", "length": request.most}
    meta: dict[str, Any] = {
        "id": request.rid,
        "finish_reason": reason,
        "prompt_tokens": len(request.tokens),
        "completion_tokens": count,
        "cached_tokens": request.cached,
        "num_retractions": slot.retracted,
        "output_token_logprobs": TokenEntries(tokens, logprobs),
        "weight_versions": _spans(request),
        "weight_version": request.spans[-1][0],
    }
    if request.logprobs_from >= 0:
        before = logprobs_of(0, request.spans[0][1], request.logprobs_from, len(request.tokens) - request.logprobs_from)
        values = [None, *before.tolist()[1:]]
        given = request.tokens[request.logprobs_from :].tolist()
        meta["input_token_logprobs"] = list(zip(values, given, repeat(None)))
    answer = {"text": "", "output_ids": tokens, "meta_info": meta}
    return answer, np.concatenate([request.tokens, tokens])


def load_report(
    batch: RunningBatch[EngineRequest], waiting: Collection[Slot[EngineRequest]], config: SimulatedEngineConfig
) -> dict[str, Any]:
    """The answer of /v1/loads: what runs, what waits, and how much of the cache is used."""
    used = round(batch.used)
    pending = sum(slot.context + slot.done for slot in waiting)
    core = {
        "dp_rank": 0,
        "num_running_reqs": len(batch),
        "num_waiting_reqs": len(waiting),
        "num_waiting_uncached_tokens": pending,
        "num_used_tokens": used,
        "num_total_tokens": used + pending,
        "max_total_num_tokens": config.cache_tokens,
        "max_running_requests": config.slots,
        "token_usage": used / config.cache_tokens,
    }
    return {"version": "simulated", "loads": [core]}


def _generated(request: EngineRequest, config: SimulatedEngineConfig) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The tokens of the response and their log-probs, each by the weights of its span."""
    parts: list[tuple[NDArray[np.int32], NDArray[np.float64]]] = []
    start, before = len(request.tokens), 0
    for _, weights, end in request.spans:
        count = end - before
        if count > 0:
            place, words = start + before, (config.first_token, config.vocabulary, request.ends)
            parts.append(drawn(request.seed, weights, place, count, *words))
            before = end
    if len(parts) == 1:
        return parts[0]
    tokens, logprobs = [tokens for tokens, _ in parts], [logprobs for _, logprobs in parts]
    return np.concatenate([np.empty(0, np.int32), *tokens]), np.concatenate([np.empty(0), *logprobs])


def _spans(request: EngineRequest) -> list[dict[str, Any]]:
    """As SGLang lists them: empty ones left out unless there is no other, neighbours of one version joined."""
    ends: list[tuple[str, int]] = []
    for version, _, end in request.spans:
        if ends and (end <= ends[-1][1] or version == ends[-1][0]):
            ends[-1] = (ends[-1][0] if end <= ends[-1][1] else version, max(end, ends[-1][1]))
        else:
            ends.append((version, end))
    places = [0, *(end for _, end in ends)]
    return [
        {"version": version, "start": start, "end": end}
        for (version, _), (start, end) in zip(ends, pairwise(places), strict=True)
    ]
