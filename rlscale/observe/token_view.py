"""A sample token by token, as dashboard and report show it: text, version, probability, advantage, ratio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from rlscale.data.sample import Sample
from rlscale.data.stored.trained_tokens import TrainedTokens
from rlscale.data.tokens.token_decoder import Decode

_BROKEN = "\ufffd"


def script() -> str:
    """What draws it in both, in the browser."""
    return files("rlscale.observe").joinpath("token_view.js").read_text(encoding="utf-8")


def token_view(sample: Sample, trained: TrainedTokens | None, decode: Decode | None, shown: slice) -> dict[str, Any]:
    """Of each of the shown tokens `texts`, `mask` (1: trained on), `versions`, `probabilities`, `advantages`, `ratios`.

    The ratio is the trainer's probability before the iteration's first step over the engine's. Advantages and ratios
    are None where none are stored. The sample must have its log-probs.
    """
    mask, rollout = sample.loss_mask[shown].tolist(), sample.rollout_logprobs[shown].tolist()
    ratios, advantages = None, None
    if trained is not None:
        advantages = _of_trained(trained.advantages[shown].tolist(), mask)
        if trained.logprobs is not None:
            changes = zip(trained.logprobs[shown].tolist(), rollout, strict=True)
            ratios = _of_trained((_power(new - old) for new, old in changes), mask)
    return {
        "texts": token_texts(sample.tokens[shown].tolist(), decode),
        "mask": [int(one) for one in mask],
        "versions": sample.versions[shown].tolist(),
        "probabilities": _of_trained(map(_power, rollout), mask),
        "advantages": advantages,
        "ratios": ratios,
    }


def _power(exponent: float) -> float:
    """e to that power; infinite where no number is large enough."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _of_trained(values: Iterable[float], mask: Sequence[bool]) -> list[float | None]:
    """The numbers of trained tokens, five digits behind the point; None for the others and for what is not finite."""
    told = zip(values, mask, strict=True)
    return [round(value, 5) if trained and math.isfinite(value) else None for value, trained in told]


def token_texts(ids: Sequence[int], decode: Decode | None) -> list[str]:
    """The text of each token. Of tokens that make up one character together, the last has it.

    Where no tokenizer is known, their numbers.
    """
    if decode is None:
        return [f"⟨{number}⟩" for number in ids]
    texts, start, before = [], 0, ""
    for end in range(1, len(ids) + 1):
        if end - start > 16:  # a window of a few tokens: what stands far before changes no token's text
            start = end - 8
            before = decode(ids[start : end - 1]).rstrip(_BROKEN)
        whole = decode(ids[start:end])
        if whole.endswith(_BROKEN) and end < len(ids):
            texts.append("")
            continue
        text = whole.removeprefix(before) if whole.startswith(before) else whole[len(before) :]
        texts.append(text or f"⟨{ids[end - 1]}⟩")  # numbers beyond the tokenizer's have no text
        before = whole
    return texts
