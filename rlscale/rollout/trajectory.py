"""A sample while it grows: the only place where tokens are appended, with what is known of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlscale.data.fields import SUPPORT, equally_wide
from rlscale.data.sample import NOT_GENERATED, Prompt, Sample, Segment
from rlscale.rollout.engines.generation import Generation


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
        self._segments = [_Growing(tokens)]

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All tokens of the last segment, int32 [n]: what the next request continues."""
        return np.concatenate(self._segments[-1].tokens)

    @property
    def response_length(self) -> int:
        """Tokens after the prompt, observed ones included, those that later segments begin with not."""
        return sum(segment.length - segment.context for segment in self._segments)

    def left(self, longest: int) -> int:
        """How many tokens may still come, of `longest` in all, or of its own bound where that is less."""
        return min(longest, longest if self._longest is None else self._longest) - self.response_length

    def generated(self, generation: Generation) -> None:
        """Append what an engine generated as the continuation of `tokens`."""
        segment = self._segments[-1]
        if generation.routed_experts is not None:
            segment.experts.append(generation.routed_experts[segment.routed :])
            segment.routed = len(generation.routed_experts)
        segment.append(generation.tokens, True, generation.logprobs, generation.versions, generation.support)

    def observed(self, tokens: NDArray[np.int32]) -> None:
        """Append tokens that the policy is shown, int32 [m]."""
        self._segments[-1].append(tokens, False, np.zeros(len(tokens), np.float32), NOT_GENERATED)

    def open_segment(self, tokens: NDArray[np.int32]) -> None:
        """Go on behind `tokens` (int32 [n]) instead of all tokens so far."""
        self._segments.append(_Growing(tokens))

    def at_ends_of_turns(self, values: Sequence[float]) -> NDArray[np.float64]:
        """One value per turn, in their order, at the last token of the turn, NaN elsewhere: float64 [all tokens]."""
        lengths = [len(part) for segment in self._segments for part in segment.tokens]
        generated = [bool(part.any()) for segment in self._segments for part in segment.mask]
        found = np.full(sum(lengths), np.nan)
        found[np.cumsum(lengths)[generated] - 1] = values
        return found

    def sample(self, prompt: Prompt, index: int) -> Sample:
        """The trajectory as sample number `index` of the prompt's group, without text and reward."""
        parts = self._segments
        routed = [experts for segment in parts if (experts := segment.all_experts()) is not None]
        support = [part for segment in parts for part in segment.support]
        named = any(segment.named_support for segment in parts)
        return Sample(
            prompt_index=prompt.index,
            index=index,
            tokens=np.concatenate([part for segment in parts for part in segment.tokens]),
            prompt_length=parts[0].context,
            loss_mask=np.concatenate([part for segment in parts for part in segment.mask]),
            rollout_logprobs=np.concatenate([part for segment in parts for part in segment.logprobs]),
            versions=np.concatenate([part for segment in parts for part in segment.versions]),
            routed_experts=np.concatenate(routed) if routed else None,
            columns={SUPPORT.name: np.concatenate(equally_wide(support, SUPPORT))} if named else {},
            later_segments=tuple(Segment(segment.length, segment.context) for segment in parts[1:]),
        )


@dataclass
class _Growing:
    """A segment that grows."""

    start: NDArray[np.int32]
    experts: list[NDArray[np.int16]] = field(default_factory=list)
    routed: int = 0
    """Tokens whose experts are known."""

    def __post_init__(self) -> None:
        self.context = len(self.start)
        self.length = 0
        self.tokens: list[NDArray[np.int32]] = []
        self.mask: list[NDArray[np.bool_]] = []
        self.logprobs: list[NDArray[np.float32]] = []
        self.versions: list[NDArray[np.int32]] = []
        self.support: list[NDArray[np.int32]] = []
        self.named_support = False
        self.append(self.start, False, np.zeros(self.context, np.float32), NOT_GENERATED)

    def append(
        self,
        tokens: NDArray[np.int32],
        mask: bool,
        logprobs: NDArray[np.float32],
        version: int | NDArray[np.int32],
        support: NDArray[np.int32] | None = None,
    ) -> None:
        """Tokens with their log-probs, their version, or that of each of them, and the words they were drawn from."""
        self.named_support |= support is not None
        self.support.append(np.full((len(tokens), 1), SUPPORT.fill, np.int32) if support is None else support)
        self.tokens.append(tokens)
        self.mask.append(np.full(len(tokens), mask, np.bool_))
        self.logprobs.append(logprobs)
        self.versions.append(np.full(len(tokens), version, np.int32))
        self.length += len(tokens)

    def all_experts(self) -> NDArray[np.int16] | None:
        """int16 [length, layers, top_k], -1 for what no request read: at least the last token; None without any."""
        if not self.experts:
            return None
        unknown = np.full((self.length - self.routed, *self.experts[0].shape[1:]), -1, np.int16)
        return np.concatenate([*self.experts, unknown])
