"""What travels from a prompt source to the trainer: prompts, samples and groups. NumPy only, cheap to pickle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOT_GENERATED = -1
"""Weight version of tokens that no engine of this run generated (prompts, observations, labels)."""


@dataclass
class Prompt:
    """One task given to the policy.

    `tokens` is int32 [n]; `index` is the position in the source's stream, which never repeats over a run (a prompt of
    the second epoch has another index than the same text in the first). `text` is what was tokenized, `messages` what
    the chat template made it of, `tools` the JSON schemas of the tools that it was told of. `source` is the name of the
    source in a mixture (`data=mixture`) that it comes from, "" outside of one; that source's bound
    on a response is `max_response_tokens`, None where `rollout.max_response_tokens` alone bounds it.
    """

    index: int
    id: str
    tokens: NDArray[np.int32]
    label: Any
    info: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    messages: Sequence[dict[str, Any]] = ()
    tools: Sequence[dict[str, Any]] = ()
    source: str = ""
    max_response_tokens: int | None = None


class Segment(NamedTuple):
    """One training sequence of a sample."""

    length: int
    """Its tokens."""
    context: int
    """How many of them it began with: the first that was generated comes after them."""


@dataclass
class Sample:
    """One trajectory: prompt tokens, then generated (trainable) and observed (masked) tokens.

    All per-token arrays have the length of `tokens` and are aligned to the token itself: `rollout_logprobs[t]` is
    log p(tokens[t] | tokens[<t]) by the engine, 0 where `loss_mask` is False; `versions[t]` is the weight version that
    generated the token, -1 where none did. `reward` is nan until scored. `text` is the response without special tokens,
    `raw_text` with them.

    `routed_experts`, where the engine was asked for them, is int16 [tokens, layers, top_k]: `routed_experts[t]` are the
    experts that token t was sent to as an input of the model, -1 for the last one, which no engine was given.

    `later_segments`: where the policy went on behind other tokens than those so far, as after its history was summed
    up. Their tokens stand behind those of the first segment; most samples have none.

    `columns`: further columns of the batch by the name of their field (rlscale.data.batches.fields), of the sample or
    of each of its tokens.
    """

    prompt_index: int
    index: int
    tokens: NDArray[np.int32]
    prompt_length: int
    loss_mask: NDArray[np.bool_]
    rollout_logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    reward: float = math.nan
    finish_reason: str = ""
    text: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    routed_experts: NDArray[np.int16] | None = None
    raw_text: str = ""
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    later_segments: tuple[Segment, ...] = ()

    @staticmethod
    def from_response(
        prompt: Prompt,
        index: int,
        tokens: NDArray[np.int32],
        logprobs: NDArray[np.float32] | None,
        version: int,
        finish_reason: str = "stop",
        text: str = "",
        routed_experts: NDArray[np.int16] | None = None,
        raw_text: str | None = None,
    ) -> Sample:
        """A sample whose whole response (int32 [m], log-probs float32 [m] or None for zeros) is trainable.

        `routed_experts` are those of all tokens but the last, int16 [tokens - 1, layers, top_k].
        `raw_text` is `text` if None.
        """
        before, after = len(prompt.tokens), len(tokens)
        both = np.empty(before + after, np.int32)
        both[:before], both[before:] = prompt.tokens, tokens
        rollout = np.zeros(before + after, np.float32)
        if logprobs is not None:
            rollout[before:] = logprobs
        versions = np.full(before + after, NOT_GENERATED, np.int32)
        versions[before:] = version
        mask = np.zeros(before + after, np.bool_)
        mask[before:] = True
        if routed_experts is not None:
            unknown = np.full((1, *routed_experts.shape[1:]), -1, np.int16)
            routed_experts = np.concatenate([routed_experts, unknown])
        return Sample(
            prompt_index=prompt.index,
            index=index,
            tokens=both,
            prompt_length=before,
            loss_mask=mask,
            rollout_logprobs=rollout,
            versions=versions,
            finish_reason=finish_reason,
            text=text,
            routed_experts=routed_experts,
            raw_text=text if raw_text is None else raw_text,
        )

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All of them, in their order."""
        later = sum(segment.length for segment in self.later_segments)
        return Segment(len(self.tokens) - later, self.prompt_length), *self.later_segments

    @property
    def response_length(self) -> int:
        """Tokens that the policy generated: neither what it was shown between them nor what segments begin with."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def continuation_length(self) -> int:
        """Tokens after the prompt, generated or shown, those that later segments begin with left out."""
        return sum(segment.length - segment.context for segment in self.segments)

    @property
    def truncated(self) -> bool:
        """Whether the response was cut at the length limit."""
        return self.finish_reason == "length"

    @property
    def min_version(self) -> int:
        """Oldest weight version that generated one of its tokens; -1 if none did."""
        generated = self.versions[self.versions != NOT_GENERATED]
        return int(generated.min()) if generated.size else NOT_GENERATED


@dataclass
class Group:
    """All samples of one prompt, in the order of their index: what the buffer keeps and ages."""

    prompt: Prompt
    samples: list[Sample]

    @property
    def min_version(self) -> int:
        """Oldest weight version that generated one of its tokens; -1 if none did."""
        versions = [v for v in (sample.min_version for sample in self.samples) if v != NOT_GENERATED]
        return min(versions, default=NOT_GENERATED)

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Rewards of its samples, float64 [samples]."""
        return np.array([sample.reward for sample in self.samples], np.float64)
