"""A sample while it grows: the only place where tokens are appended, with what is known of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlscale.data.sample import NOT_GENERATED, Prompt, Sample, Segment
from rlscale.rollout.engines.generation import Generation, joined_columns


class Trajectory:
    """Prompt tokens, then what the policy generated (trainable) and what it observed (masked), in their order.

    Tokens are taken as the engine sampled them and are never rendered again. Where the policy goes on behind other
    tokens than those so far, a new segment is opened, which is a training sequence of its own. Choices of experts are
    those of the request that generated the token, or for tokens that were only read, of the first request of the
    segment that read them.
    """

    def __init__(self, tokens: NDArray[np.int32], longest: int | None = None) -> None:
        """`tokens`: int32 [n], what the first turn follows; `longest`: a bound on what comes after it of its own."""
        self._longest = longest
        self._segments = [_Segment(tokens)]

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All tokens of the last segment, int32 [n]: what the next request continues."""
        parts = self._segments[-1].parts
        return parts[0].tokens if len(parts) == 1 else np.concatenate([part.tokens for part in parts])

    @property
    def continuation_length(self) -> int:
        """Tokens after the prompt, observed ones included, those that later segments begin with not."""
        return sum(segment.length - segment.context for segment in self._segments)

    def left(self, longest: int) -> int:
        """How many tokens may still come, of `longest` in all, or of its own bound where that is less."""
        return min(longest, longest if self._longest is None else self._longest) - self.continuation_length

    def generated(self, generation: Generation) -> None:
        """Append what an engine generated as the continuation of `tokens`."""
        segment = self._segments[-1]
        if generation.routed_experts is not None:
            segment.experts.append(generation.routed_experts[segment.routed :])
            segment.routed = len(generation.routed_experts)
        segment.append(_Part(generation.tokens, generation.logprobs, generation.versions, generation.columns))

    def observed(self, tokens: NDArray[np.int32]) -> None:
        """Append tokens that the policy is shown, int32 [m]."""
        self._segments[-1].append(_Part(tokens))

    def open_segment(self, tokens: NDArray[np.int32]) -> None:
        """Go on behind `tokens` (int32 [n]) instead of all tokens so far."""
        self._segments.append(_Segment(tokens))

    def at_ends_of_turns(self, values: Sequence[float]) -> NDArray[np.float64]:
        """One value per turn, in their order, at the last token of the turn, NaN elsewhere: float64 [all tokens]."""
        parts = [part for segment in self._segments for part in segment.parts]
        lengths = [len(part.tokens) for part in parts]
        generated = [part.logprobs is not None and len(part.tokens) > 0 for part in parts]
        found = np.full(sum(lengths), np.nan)
        found[np.cumsum(lengths)[generated] - 1] = values
        return found

    def sample(self, prompt: Prompt, index: int) -> Sample:
        """The trajectory as sample number `index` of the prompt's group, without text and reward."""
        segments = self._segments
        parts = [part for segment in segments for part in segment.parts]
        size = sum(segment.length for segment in segments)
        tokens, versions = np.empty(size, np.int32), np.full(size, NOT_GENERATED, np.int32)
        mask, logprobs = np.zeros(size, np.bool_), np.zeros(size, np.float32)
        start = 0
        for part in parts:
            end = start + len(part.tokens)
            tokens[start:end] = part.tokens
            if part.logprobs is not None and part.versions is not None:
                mask[start:end], logprobs[start:end], versions[start:end] = True, part.logprobs, part.versions
            start = end
        routed = [experts for segment in segments if (experts := segment.all_experts()) is not None]
        return Sample(
            prompt_index=prompt.index,
            index=index,
            tokens=tokens,
            prompt_length=segments[0].context,
            loss_mask=mask,
            rollout_logprobs=logprobs,
            versions=versions,
            routed_experts=np.concatenate(routed) if routed else None,
            columns=joined_columns([(len(part.tokens), part.columns) for part in parts]),
            later_segments=tuple(Segment(segment.length, segment.context) for segment in segments[1:]),
        )


class _Part(NamedTuple):
    """Tokens that came together, int32 [m]: observed, or where there are log-probs, generated."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None = None
    versions: NDArray[np.int32] | None = None
    columns: Mapping[str, NDArray[Any]] = {}


class _Segment:
    """A segment that grows from the tokens that it begins with."""

    def __init__(self, start: NDArray[np.int32]) -> None:
        self.context = self.length = len(start)
        self.parts = [_Part(start)]
        self.experts: list[NDArray[np.int16]] = []
        self.routed = 0
        """Tokens whose experts are known."""

    def append(self, part: _Part) -> None:
        self.parts.append(part)
        self.length += len(part.tokens)

    def all_experts(self) -> NDArray[np.int16] | None:
        """int16 [length, layers, top_k], -1 for what no request read: at least the last token; None without any."""
        if not self.experts:
            return None
        unknown = np.full((self.length - self.routed, *self.experts[0].shape[1:]), -1, np.int16)
        return np.concatenate([*self.experts, unknown])
