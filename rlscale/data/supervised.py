"""Groups for supervised fine-tuning: the label as the response, no engine involved."""

from __future__ import annotations

from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.chat import PromptEncoder
from rlscale.data.feed import PromptFeed
from rlscale.data.sample import NOT_GENERATED, Group, Prompt, Sample
from rlscale.data.sources import PromptSource


class SupervisedFeed:
    """Batches of groups with one sample each: prompt + label + end token, trainable on label and end token.

    Examples whose label is over `max_response_tokens` are left out and counted in `dropped`.
    """

    def __init__(
        self,
        source: PromptSource,
        encoder: PromptEncoder,
        groups_per_iteration: int,
        max_response_tokens: int | None = None,
    ) -> None:
        self._feed = PromptFeed(source, encoder)
        self._encoder = encoder
        self._epoch = len(source)
        self._groups = groups_per_iteration
        self._max = max_response_tokens
        self._too_long = 0

    @property
    def dropped(self) -> int:
        """Examples left out so far because prompt or label was too long."""
        return self._feed.dropped + self._too_long

    def next_batch(self) -> list[Group]:
        """The next `groups_per_iteration` groups. UserError when no example of a whole epoch fits."""
        groups: list[Group] = []
        fruitless = 0
        while len(groups) < self._groups:
            prompts = self._feed.take(self._groups - len(groups))
            fitting = [group for group in map(self._group, prompts) if group is not None]
            groups += fitting
            fruitless = 0 if fitting else fruitless + len(prompts)
            if fruitless >= self._epoch:
                raise UserError("data: no label fits; raise rollout.max_response_tokens")
        return groups

    def state_dict(self) -> dict[str, Any]:
        """Position in the data and counters."""
        return {"feed": self._feed.state_dict(), "too_long": self._too_long}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch handed out."""
        self._feed.load_state_dict(state["feed"])
        self._too_long = int(state["too_long"])

    def _group(self, prompt: Prompt) -> Group | None:
        if prompt.label is None:
            raise UserError(f"data: prompt {prompt.id} has no label to learn; set data.label_key")
        text = str(prompt.label)
        tokens = self._encoder.encode_response(text)
        if self._max is not None and len(tokens) > self._max:
            self._too_long += 1
            return None
        return Group(prompt, [Sample.from_response(prompt, 0, tokens, None, NOT_GENERATED, text=text)])
