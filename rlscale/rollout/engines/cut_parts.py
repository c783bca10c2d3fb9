"""What there is of a generation that a weight sync cut off: all of it, or what it goes on behind.

An engine (SGLang 0.5.19) that is told to abort samples one more token and says "abort" whatever that is: a response
that ended with it, by its end token or at its length, does not say so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rlscale.data.batches.fields import SUPPORT
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.sampling_params import SamplingParams


def after_cut(
    part: Generation, context: int, sampling: SamplingParams, may_end: Collection[int], routed: bool
) -> Generation:
    """What is kept of the answer to a request with `context` tokens and that `sampling`; every token, as a rule.

    It finished with "stop" or "length" where nothing follows it. A last token at which the engine may have ended of its
    own accord (`may_end`), or completed a text to stop at, is left out, to be sampled anew; so is everything where the
    choices of experts (`routed`) or the words that were drawn from should be there and are not: an engine does not say
    them of a request that waited.
    """
    tokens = len(part.tokens)
    unnamed = sampling.names_support and SUPPORT.name not in part.columns
    if not tokens or unnamed or (routed and part.routed_experts is None):
        return _first(part, 0, context)
    last = None if sampling.ignore_eos else int(part.tokens[-1])
    if last in sampling.stop_token_ids:
        return replace(part, finish_reason="stop", message="")
    if last in may_end or sampling.stop:
        return _first(part, tokens - 1, context)
    if tokens >= sampling.max_new_tokens:
        return replace(part, finish_reason="length", message="")
    return part


def _first(part: Generation, keep: int, context: int) -> Generation:
    experts = part.routed_experts
    return replace(
        part,
        tokens=part.tokens[:keep],
        logprobs=part.logprobs[:keep],
        versions=part.versions[:keep],
        routed_experts=None if experts is None else experts[: context + keep - 1],
        columns={name: values[:keep] for name, values in part.columns.items()},
    )
