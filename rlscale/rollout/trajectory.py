"""A sample while it grows: the only place where tokens are appended, with what is known of each of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlscale.data.sample import NOT_GENERATED, Prompt, Sample
from rlscale.rollout.engines.client import Generation


class Trajectory:
    """Prompt tokens, then what the policy generated (trainable) and what it observed (masked), in their order.

    Tokens are taken as the engine sampled them and are never rendered again. Choices of experts are those of the
    request that generated the token, or for tokens that were only read, of the first request that read them.
    """

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        """`tokens`: int32 [n], what the first turn follows."""
        self._prompt_length = len(tokens)
        self._tokens = [tokens]
        self._mask = [np.zeros(len(tokens), np.bool_)]
        self._logprobs = [np.zeros(len(tokens), np.float32)]
        self._versions = [np.full(len(tokens), NOT_GENERATED, np.int32)]
        self._experts: list[NDArray[np.int16]] = []
        self._routed = 0  # tokens whose experts are known

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All tokens so far, int32 [n]: what the next request continues."""
        return np.concatenate(self._tokens)

    @property
    def response_length(self) -> int:
        """Tokens after the prompt, observed ones included."""
        return sum(map(len, self._tokens)) - self._prompt_length

    def generated(self, generation: Generation) -> None:
        """Append what an engine generated as the continuation of `tokens`. Its `version` must be known."""
        assert generation.version is not None
        if generation.routed_experts is not None:
            self._experts.append(generation.routed_experts[self._routed :])
            self._routed = len(generation.routed_experts)
        self._append(generation.tokens, True, generation.logprobs, generation.version)

    def observed(self, tokens: NDArray[np.int32]) -> None:
        """Append tokens that the policy is shown, int32 [m]."""
        self._append(tokens, False, np.zeros(len(tokens), np.float32), NOT_GENERATED)

    def sample(self, prompt: Prompt, index: int) -> Sample:
        """The trajectory as sample number `index` of the prompt's group, without text and reward."""
        tokens = self.tokens
        routed = None
        if self._experts:
            # At least the last token was never an input of the model.
            unknown = np.full((len(tokens) - self._routed, *self._experts[0].shape[1:]), -1, np.int16)
            routed = np.concatenate([*self._experts, unknown])
        return Sample(
            prompt_index=prompt.index,
            index=index,
            tokens=tokens,
            prompt_length=self._prompt_length,
            loss_mask=np.concatenate(self._mask),
            rollout_logprobs=np.concatenate(self._logprobs),
            versions=np.concatenate(self._versions),
            routed_experts=routed,
        )

    def _append(self, tokens: NDArray[np.int32], mask: bool, logprobs: NDArray[np.float32], version: int) -> None:
        self._tokens.append(tokens)
        self._mask.append(np.full(len(tokens), mask, np.bool_))
        self._logprobs.append(logprobs)
        self._versions.append(np.full(len(tokens), version, np.int32))
