"""One generation that weight syncs, and engines that end under it, may cut into several requests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.needed_weights import NeededWeights
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.cut_parts import after_cut
from rlscale.rollout.engines.generation import Generation, RequestFailed, joined_columns
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams


class Cuts:
    """When requests that are under way were cut off: for a weight sync, or as an engine leaves."""

    def __init__(self) -> None:
        self.count = 0
        """How often that has begun."""
        self._ended = 0

    @contextmanager
    def cutting(self) -> Iterator[None]:
        """Within the block engines abort what they have, whenever it began, and again and again."""
        self.count += 1
        try:
            yield
        finally:
            self._ended += 1

    def now(self) -> int:
        """This moment, as a request begins."""
        return self._ended

    def any_since(self, moment: int) -> bool:
        """Whether one that began at that moment may have been cut off. Its answer may come when all is over."""
        return self.count > moment


@dataclass(frozen=True)
class Continued:
    """Generates through `client`, past the syncs that `cuts` counts, and past engines that end.

    A request that a sync cut off, or whose engine ended after it had sent tokens, is sent again with those tokens, the
    same seed, and what is left of its length. What each part brought is kept as the engine gave it: tokens, log-probs,
    versions, choices of experts. `sticky`: the requests of a trajectory go to one engine. `may_end`: tokens at which
    engines may end a response although the request does not say so, such as the ends in the model's own files (see
    `cut_parts`).
    """

    client: EngineClient
    cuts: Cuts
    sticky: bool = False
    may_end: Collection[int] = frozenset()

    async def generate(
        self,
        tokens: NDArray[np.int32],
        sampling: SamplingParams,
        seed: int,
        admission: AbstractAsyncContextManager[None],
        attempt: Attempt,
        experts: ExpertSizes | None = None,
    ) -> Generation:
        """The whole continuation of `tokens`. RequestFailed where it is of no use.

        Each request passes `admission`; `attempt` is told when it has entered and what it brought, and may know parts
        of a generation that begins here from before a restart.
        """
        parts = attempt.parts
        done = sum(len(part.tokens) for part in parts)
        while True:
            attempt.asks()
            async with admission:
                needed, before = NeededWeights(attempt.enter(), attempt.exactly), self.cuts.now()
                start = np.concatenate([tokens, *(part.tokens for part in parts)]) if parts else tokens
                named = {"trajectory": attempt.trajectory} if self.sticky else {}
                rest = _rest(sampling, done)
                part = await self.client.generate(start, rest, seed, experts=experts, weights=needed, **named)
                cut = part.finish_reason == "abort" and (part.interrupted or self.cuts.any_since(before))
            attempt.received(len(part.tokens))
            _check(part, needed, cut)
            if not cut:
                return _joined([*parts, part])
            had = after_cut(part, len(start), rest, self.may_end, experts is not None)
            if had.finish_reason != "abort":
                return _joined([*parts, had])
            attempt.cut(had, len(part.tokens) - len(had.tokens))
            done += len(had.tokens)


def _rest(sampling: SamplingParams, done: int) -> SamplingParams:
    """What is left of the length after so many tokens."""
    rest = sampling.of_length(sampling.max_new_tokens - done)
    return replace(rest, min_new_tokens=max(rest.min_new_tokens - done, 0)) if done and rest.min_new_tokens else rest


def _check(part: Generation, needed: NeededWeights, cut: bool) -> None:
    if part.finish_reason == "abort" and not cut:
        raise RequestFailed(f"the engine aborted the request: {part.message}")
    if not len(part.tokens):
        if cut:
            return
        raise RequestFailed("the engine answered without a token")
    if not (finite := np.isfinite(part.logprobs)).all():
        bad = len(finite) - np.count_nonzero(finite)
        raise RequestFailed(f"{bad} of the {len(part.logprobs)} log-probs in the answer are not finite")
    if (oldest := int(np.minimum.reduce(part.versions))) < needed.version:
        # An engine that was restarted and has not been given the current weights, and does not look at `needed`.
        raise RequestFailed(f"the engine holds weight version {None if oldest < 0 else oldest}, not {needed.version}")


def _joined(parts: list[Generation]) -> Generation:
    """Parts of one response as one generation, which finished as the last did."""
    if len(parts) == 1:
        return parts[0]
    routed, known = [], 0
    for part in parts:
        if part.routed_experts is not None:
            routed.append(part.routed_experts[known:])
            known = len(part.routed_experts)
    return replace(
        parts[-1],
        tokens=np.concatenate([part.tokens for part in parts]),
        logprobs=np.concatenate([part.logprobs for part in parts]),
        versions=np.concatenate([part.versions for part in parts]),
        routed_experts=np.concatenate(routed) if routed else None,
        columns=joined_columns([(len(part.tokens), part.columns) for part in parts]),
    )
