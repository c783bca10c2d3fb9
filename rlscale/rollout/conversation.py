"""The messages and tokens of one episode, turn by turn: what the policy is shown next, and where a segment begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlscale.config.schema.rollout_config import History, RolloutConfig
from rlscale.data.prompts.messages import Message
from rlscale.data.sample import Prompt
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Step
from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, canonical
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class EpisodeRules:
    """What bounds an episode besides its tokens, and how earlier turns are shown; of `rollout`, key by key."""

    history: History = History.sampled
    turn_tokens: int | None = None
    """Longest turn of the policy; None: what is left of the episode's tokens."""
    turns: int | None = None
    """Turns of the policy; None: as many as fit."""
    seconds: float | None = None
    """After which no further turn begins; None: any time."""

    @staticmethod
    def of(rollout: RolloutConfig) -> EpisodeRules:
        """Those of a configuration."""
        return EpisodeRules(rollout.history, rollout.max_turn_tokens, rollout.max_turns, rollout.max_episode_s)


class Conversation:
    """One episode's, from a prompt on.

    What was sampled stays as it was sampled: with `history=sampled` only what follows a turn is rendered. With
    `template` the chat template writes the whole conversation, as it will when the model is deployed; where it writes
    an earlier turn otherwise, without its thinking for instance, the next turn begins a segment of its own.
    """

    def __init__(self, prompt: Prompt, encoder: PromptEncoder, history: History = History.sampled) -> None:
        """`encoder`: of the prompt's source."""
        self.trajectory = Trajectory(prompt.tokens, prompt.max_response_tokens)
        self._messages: list[Message] = list(prompt.messages)
        self._encoder, self._prompt = encoder, prompt
        self._history = history
        self._last = -1

    def said(self, generation: Generation, text: str, read: Action | None = None) -> None:
        """A turn of the policy. `read`: with thinking and calls apart, as the template is given them when deployed."""
        self.trajectory.generated(generation)
        self._last = int(generation.tokens[-1])
        if read is None or self._history is History.sampled:
            self._messages.append({"role": "assistant", "content": text})
        else:
            self._messages.append(_message(read))

    def answered(self, step: Step, longest: int) -> bool:
        """Show the policy the step's messages; False where no further turn fits behind them, of `longest` in all.

        ValueError saying what is wrong with the messages.
        """
        if step.restart:
            start = self._encoder.encode_start(self._prompt, step.messages, ())
            return self._appended(start.tokens, True, list(start.messages), longest)
        messages = [*self._messages, *step.messages]
        if self._history is History.template:
            tokens, begins = self._encoder.encode_continuation(self.trajectory.tokens, messages, self._prompt.tools)
        else:
            before, begins = self._messages[:-1], False
            tokens = self._encoder.encode_observation(before, step.messages, self._prompt.tools, self._last)
        return self._appended(tokens, begins, messages, longest)

    def _appended(self, tokens: NDArray[np.int32], begins: bool, messages: list[Message], longest: int) -> bool:
        """The tokens (int32 [m]) appended, or a segment begun with them, if there is room; then these were said."""
        if (0 if begins else len(tokens)) >= self.trajectory.left(longest):
            return False
        if begins:
            self.trajectory.open_segment(tokens)
        else:
            self.trajectory.observed(tokens)
        self._messages = messages
        return True


def _message(action: Action) -> Message:
    """A turn as chat templates read it."""
    calls = tuple(ToolCall(call.name, canonical(call.arguments), f"call_{i}") for i, call in enumerate(action.calls))
    return ChatMessage("assistant", action.text, action.thinking, calls).rendered()
