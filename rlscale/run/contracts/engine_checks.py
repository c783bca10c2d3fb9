"""What is asked of an engine that runs: SGLang's protocol, as far as rollout and weight sync use it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from rlscale.serve.http import CallError, call
from rlscale.serve.receiver import EngineReceiver
from rlscale.trainer.hook_contract.findings import HookStoppedError, Report

_PROMPT = [8, 11, 14, 7, 12, 15, 2]
_TOKENS = 6
_ANSWER_S = 60.0


def check_engine(report: Report, url: str, api_key: str, model: str) -> None:
    """Checks of an engine of the folder `model`; ends the test where it does not generate."""
    _asks_for_the_key(report, url)
    first = _generated(report, url, api_key, seed=7)
    again, other = (_generated(report, url, api_key, seed) for seed in (7, 8))
    same = first == again and first[0] != other[0]
    text = f"{first[0]}, {again[0]} and, of another seed, {other[0]}"
    report.add("seed", "the seed of a request decides its tokens", same, text)
    receiver = EngineReceiver(url, api_key, timeout=_ANSWER_S)
    for version in (3, 4):
        _done(report, "weights", "it loads a folder", functools.partial(receiver.receive_folder, model, version))
        told = {receiver.weight_version(), *_versions(report, url, api_key)}
        report.add("version", "told by the engine and with each token", told == {str(version)}, f"{sorted(told)}")
    _done(report, "pause", "it pauses and goes on", receiver.pause)
    _done(report, "pause", "it pauses and goes on", receiver.continue_)
    _done(report, "abort", "it aborts all requests", receiver.abort_all)
    _done(report, "flush", "it empties its cache", receiver.flush_cache)
    _generated(report, url, api_key, seed=9)


def _asks_for_the_key(report: Report, url: str) -> None:
    try:
        call(url, "/model_info", "another key", timeout=_ANSWER_S)
        said = "it answers one with another key"
    except CallError as error:
        said = str(error)
    report.add("key", "status 401 for another key than the site's", "status 401" in said, said)


def _answer(report: Report, url: str, api_key: str, seed: int) -> dict[str, Any]:
    sampling = {"max_new_tokens": _TOKENS, "temperature": 1.0, "sampling_seed": seed, "ignore_eos": True}
    body = {"input_ids": _PROMPT, "sampling_params": sampling, "return_logprob": True}
    try:
        answer = call(url, "/generate", api_key, body, timeout=_ANSWER_S)
        meta = answer["meta_info"]
        right = len(meta["output_token_logprobs"]) == _TOKENS and meta["finish_reason"]["type"] == "length"
        said = f"{len(meta['output_token_logprobs'])} tokens, {meta['finish_reason']}"
    except (CallError, KeyError, TypeError) as error:
        right, said = False, f"{type(error).__name__}: {error}"
    report.add("generate", f"{_TOKENS} tokens with their log-probs", right, said)
    report.stop_if_failed("generate")
    found: dict[str, Any] = answer
    return found


def _generated(report: Report, url: str, api_key: str, seed: int) -> tuple[list[int], list[float]]:
    """Tokens and log-probs of a request, the latter rounded to three digits."""
    entries = _answer(report, url, api_key, seed)["meta_info"]["output_token_logprobs"]
    values = [entry[0] for entry in entries]
    right = all(isinstance(value, float) and math.isfinite(value) and value <= 0 for value in values)
    report.add("log-probs", "finite and at most 0", right, f"{values[:3]}")
    report.stop_if_failed("log-probs")
    return [entry[1] for entry in entries], [round(value, 3) for value in values]


def _versions(report: Report, url: str, api_key: str) -> list[str]:
    """Of each span of an answer the weight version."""
    spans = _answer(report, url, api_key, seed=7)["meta_info"].get("weight_versions") or []
    return [str(span["version"]) for span in spans] or ["none with the tokens"]


def _done(report: Report, check: str, expected: str, ask: Callable[[], object]) -> None:
    try:
        ask()
    except CallError as error:
        report.add(check, expected, False, str(error))
        raise HookStoppedError from error
    report.add(check, expected, True, "it does")
