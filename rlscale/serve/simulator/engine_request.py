"""A request to a simulated engine: what was asked, taken from SGLang's body, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KNOWN = frozenset(
    {"max_new_tokens", "min_new_tokens", "temperature", "top_p", "top_k", "stop_token_ids", "sampling_seed"}
    | {"ignore_eos", "stop", "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "skip_special_tokens"}
)
_UNSEEDED = 42
"""The seed of requests without one: all of them get the same, as from SGLang."""


class BadRequest(Exception):
    """What an engine answers with status 400."""


@dataclass(eq=False, slots=True)
class EngineRequest:
    """One prompt with its sampling parameters."""

    rid: str
    tokens: NDArray[np.int32]
    seed: int
    most: int
    """`max_new_tokens`."""
    least: int
    """`min_new_tokens`; all of them with `ignore_eos`."""
    ends: tuple[int, ...]
    """Tokens that end the response."""
    logprobs_from: int
    """Log-probs of the prompt are given from here on; -1: not at all."""
    answer: asyncio.Future[dict[str, Any]]
    finish: str = "stop"
    cached: int = 0
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    """Version, weights, and the number of response tokens up to which they were generated with them."""


def read_requests(
    body: Mapping[str, Any], end_token: int, context: int, unique: int
) -> tuple[list[EngineRequest], bool]:
    """The requests of a body, and whether it was a list of prompts. BadRequest if the engine would refuse it.

    `unique` makes the name of a request that has none.
    """
    try:
        return _read(body, end_token, context, unique)
    except (TypeError, ValueError, OverflowError) as error:  # something is not the number or the list that it must be
        raise BadRequest(f"the request is malformed: {error}") from error


def _read(body: Mapping[str, Any], end_token: int, context: int, unique: int) -> tuple[list[EngineRequest], bool]:
    ids = body.get("input_ids")
    if not isinstance(ids, list) or not ids:
        raise BadRequest("input_ids must be a list of tokens, or a list of such lists")
    many = isinstance(ids[0], list)
    prompts = ids if many else [ids]
    rid = body.get("rid")
    if rid is None:
        rids = [f"simulated-{unique}-{number}" for number in range(len(prompts))]
    elif isinstance(rid, list):
        rids = [str(one) for one in rid]
    else:
        rids = [f"{rid}_{number}" for number in range(len(prompts))] if many else [str(rid)]
    sampling = body.get("sampling_params") or {}
    each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
    if len(rids) != len(prompts) or len(each) != len(prompts):
        raise BadRequest(f"{len(prompts)} prompts, {len(rids)} names and {len(each)} sampling parameters")
    start = body.get("logprob_start_len")
    return [
        _request(rid, tokens, params, end_token, context, -1 if start is None else int(start))
        for rid, tokens, params in zip(rids, prompts, each, strict=True)
    ], many


def _request(
    rid: str, tokens: list[int], sampling: Mapping[str, Any], end_token: int, context: int, logprobs_from: int
) -> EngineRequest:
    if not _KNOWN.issuperset(sampling):
        raise BadRequest(f"a simulated engine does not know the sampling parameter {min(set(sampling) - _KNOWN)}")
    if sampling.get("n", 1) != 1:
        raise BadRequest("a seed for each sample needs n=1")
    most = int(sampling.get("max_new_tokens", 128))
    if len(tokens) >= context or most < 1:
        raise BadRequest(f"the input of {len(tokens)} tokens is longer than the model's context of {context}")
    most = min(most, context - len(tokens))
    asked = sampling.get("stop_token_ids") or ()
    return EngineRequest(
        rid=rid,
        tokens=np.asarray(tokens, np.int32),
        seed=int(sampling.get("sampling_seed", _UNSEEDED)),
        most=most,
        least=most if sampling.get("ignore_eos") else int(sampling.get("min_new_tokens", 0)),
        ends=_ends(end_token, tuple(asked)),
        logprobs_from=logprobs_from,
        answer=asyncio.get_running_loop().create_future(),
    )


@lru_cache(maxsize=64)
def _ends(end_token: int, asked: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens that end a response."""
    return tuple(sorted({end_token, *map(int, asked)}))
