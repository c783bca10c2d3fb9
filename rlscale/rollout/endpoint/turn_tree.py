"""The turns of one session: where a request attaches to what was sampled before, and the sample that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlscale.data.duplication import tokens_that_differ
from rlscale.data.prompts.messages import tool_names
from rlscale.rollout.endpoint.chat_messages import ChatMessage, forgot_thinking, same
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.trajectory import Trajectory


@dataclass(eq=False)
class Turn:
    """One answer of the policy.

    `context` is int32 [n], all that the engine was given: where there is a parent, that one's context and generated
    tokens, and behind them what the policy was shown since (`shown`). `tools` is canonical JSON.
    """

    parent: Turn | None
    shown: tuple[ChatMessage, ...]
    tools: str
    context: NDArray[np.int32]
    generation: Generation
    answer: ChatMessage
    children: list[Turn] = field(default_factory=list)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All tokens up to the end of the answer."""
        return np.concatenate([self.context, self.generation.tokens])

    def history(self) -> list[ChatMessage]:
        """All messages before the answer."""
        before = [] if self.parent is None else [*self.parent.history(), self.parent.answer]
        return [*before, *self.shown]


@dataclass(frozen=True)
class Attachment:
    """Where a request goes on: behind `turn`, with `new` messages; without a turn from the beginning with all."""

    turn: Turn | None
    new: tuple[ChatMessage, ...]
    forgotten: int = 0
    """Messages of the policy whose thinking the request left out."""


class TurnTree:
    """All turns of a session that were answered. Pure: no requests, no clock.

    What a request repeats of the conversation is found by its messages; the tokens stay those that were sampled. The
    first answer to a turn continues its sequence, all others open one of their own: a conversation that only grows is
    one sequence, and every sampled token is trainable in exactly one.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.forgotten = 0

    def attach(self, messages: Sequence[ChatMessage], tools: str) -> Attachment:
        """The deepest turn whose messages and answer the request begins with, and nothing of the policy's after it.

        What a client changed in the middle, summed up or wrote in the policy's place is in no turn: then there is none.
        """
        best = Attachment(None, tuple(messages))
        paths = [(turn, 0, 0) for turn in self.turns if turn.parent is None and turn.tools == tools]
        while paths:
            turn, start, forgotten = paths.pop()
            stored = (*turn.shown, turn.answer)
            end = start + len(stored)
            if end >= len(messages) or not all(map(same, stored, messages[start:end])):
                continue
            forgotten += forgot_thinking(turn.answer, messages[end - 1])
            new = tuple(messages[end:])
            attachable = all(message.role != "assistant" for message in new)
            if attachable and (len(new), forgotten) < (len(best.new), best.forgotten):
                best = Attachment(turn, new, forgotten)
            elif attachable and best.turn is not None and (len(new), forgotten) == (len(best.new), best.forgotten):
                best = min(best, Attachment(turn, new, forgotten), key=self._place)
            paths += [(child, end, forgotten) for child in turn.children]
        return best

    def add(self, turn: Turn) -> None:
        """An answer that its client received. AssertionError if its context is not what its parent came to."""
        if turn.parent is not None:
            before = turn.parent.tokens
            assert np.array_equal(turn.context[: len(before)], before), "a turn does not continue its parent's tokens"
            turn.parent.children.append(turn)
        self.turns.append(turn)

    def remove(self, turn: Turn) -> bool:
        """Take back an answer that did not arrive; False where another turn continues it, so that it must have."""
        if turn.children:
            return False
        self.turns.remove(turn)
        if turn.parent is not None:
            turn.parent.children.remove(turn)
        return True

    @property
    def generated(self) -> int:
        """Tokens sampled in all turns."""
        return sum(len(turn.generation.tokens) for turn in self.turns)

    @property
    def tools(self) -> list[str]:
        """Names of all tools that the policy was told of, in the order of their first mention."""
        told = [json.loads(turn.tools) for turn in self.turns]
        return list(dict.fromkeys(name for tools in told for name in tool_names(tools)))

    def sequences(self) -> Iterator[list[Turn]]:
        """The turns of each training sequence, sequences in the order of their first answer."""
        for turn in self.turns:
            if turn.parent is None or turn.parent.children[0] is not turn:
                sequence = [turn]
                while sequence[-1].children:
                    sequence.append(sequence[-1].children[0])
                yield sequence

    def trajectory(self) -> Trajectory:
        """All turns as one trajectory with a segment for each sequence. ValueError without a turn."""
        trajectory: Trajectory | None = None
        for sequence in self.sequences():
            begins = sequence[0].context
            if trajectory is None:
                trajectory = Trajectory(begins)
            else:
                trajectory.open_segment(begins)
            trajectory.generated(sequence[0].generation)
            for turn in sequence[1:]:
                assert turn.parent is not None
                trajectory.observed(turn.context[len(turn.parent.tokens) :])
                trajectory.generated(turn.generation)
        if trajectory is None:
            raise ValueError("there are no turns")
        return trajectory

    def duplication(self) -> float:
        """Tokens of all segments over those that differ in what they follow: 1 where nothing is read twice."""
        sequences = [sequence[-1].tokens for sequence in self.sequences()]
        whole = sum(map(len, sequences))
        return whole / tokens_that_differ(sequences)

    def _place(self, attachment: Attachment) -> int:
        assert attachment.turn is not None
        return self.turns.index(attachment.turn)
