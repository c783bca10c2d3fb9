"""Groups for supervised fine-tuning: the label as the response, no engine involved."""

from __future__ import annotations

import dataclasses
from typing import Any

from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.bad_rows import BadPrompt
from rlscale.data.prompts.messages import kind_of, read_messages, split_answer
from rlscale.data.prompts.sources import PromptSource, RawPrompt
from rlscale.data.sample import NOT_GENERATED, Group, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder


class ExampleEncoder:
    """Makes of a prompt and its answer a group with one sample, trainable on the answer and the end token.

    The answer is the label; without one it is the last message of the prompt, which must be the assistant's.
    """

    def __init__(self, prompts: PromptEncoder, max_response_tokens: int | None = None, key: str = "data") -> None:
        self._prompts = prompts
        self._max = max_response_tokens
        self._key = key
        self.too_long = 0

    @property
    def dropped(self) -> int:
        """Examples left out so far because their prompt was too long."""
        return self._prompts.dropped

    @dropped.setter
    def dropped(self, count: int) -> None:
        self._prompts.dropped = count

    @property
    def limits(self) -> str:
        """The keys to raise when no example fits."""
        which = [self._prompts.limits] if self.dropped or not self.too_long else []
        return " and ".join([*which, "rollout.max_response_tokens"] if self.too_long else which)

    def encode(self, raw: RawPrompt) -> Group | None:
        """The example; None, and counted, where prompt or answer is too long. BadPrompt where it cannot be used."""
        where = raw.where(self._key)
        try:
            raw, answer = _with_answer(raw)
        except ValueError as error:
            raise BadPrompt(where, str(error)) from error
        prompt = self._prompts.encode(raw)
        if prompt is None:
            return None
        try:
            tokens = self._prompts.encode_response(answer)
        except ValueError as error:
            raise BadPrompt(where, f"has an answer that {error}") from error
        if self._max is not None and len(tokens) > self._max:
            self.too_long += 1
            return None
        return Group(prompt, [Sample.from_response(prompt, 0, tokens, None, NOT_GENERATED, text=answer)])


class SupervisedGroups:
    """Batches of groups with one sample each: prompt + answer + end token, trainable on answer and end token.

    Examples whose answer is over `max_response_tokens` are left out and counted in `dropped`, bad ones in `bad`.
    """

    def __init__(
        self,
        source: PromptSource,
        encoder: PromptEncoder,
        groups_per_iteration: int,
        max_response_tokens: int | None = None,
        max_bad_rate: float | None = None,
    ) -> None:
        self._encoder = ExampleEncoder(encoder, max_response_tokens)
        self._queue = PromptQueue(source, self._encoder, "data", max_bad_rate)
        self._groups = groups_per_iteration

    @property
    def dropped(self) -> int:
        """Examples left out so far because prompt or answer was too long."""
        return self._queue.dropped + self._encoder.too_long

    @property
    def bad(self) -> int:
        """Examples left out so far because they could not be used."""
        return self._queue.bad

    def next_batch(self) -> list[Group]:
        """The next `groups_per_iteration` groups. UserError when no example of a whole epoch fits."""
        return self._queue.take(self._groups)

    def state_dict(self) -> dict[str, Any]:
        """Position in the data and counters."""
        return {"queue": self._queue.state_dict(), "too_long": self._encoder.too_long}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch handed out."""
        self._queue.load_state_dict(state["queue"])
        self._encoder.too_long = int(state["too_long"])


def _with_answer(raw: RawPrompt) -> tuple[RawPrompt, str]:
    """The prompt without its answer, and the answer as text. ValueError where there is none."""
    if raw.label is None:
        if isinstance(raw.prompt, str):
            raise ValueError("has no label to learn; set data.label_key")
        messages, answer = split_answer(read_messages(raw.prompt))
        raw = dataclasses.replace(raw, prompt=messages)
    elif not isinstance(raw.prompt, str) and read_messages(raw.prompt)[-1]["role"] == "assistant":
        raise ValueError("ends with an assistant message and has a label too; data.label_key=null learns it")
    elif isinstance(raw.label, str):
        answer = raw.label
    elif isinstance(raw.label, int | float) and not isinstance(raw.label, bool):
        answer = str(raw.label)
    else:
        raise ValueError(f"has a label that is {kind_of(raw.label)}; the answer to learn must be text or a number")
    if not answer.strip():
        raise ValueError("has an empty answer")
    return raw, answer
