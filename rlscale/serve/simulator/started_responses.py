"""Responses that were cut off, so that a request which goes on behind one ends where the response would have."""

from __future__ import annotations


class StartedResponses:
    """By the seed of their requests. Also how many responses were begun, and how long they were to be."""

    def __init__(self) -> None:
        self._cut: dict[int, tuple[int, int]] = {}
        self.begun = 0
        self.tokens = 0
        """Tokens that all responses begun so far have, or will have, in the end."""

    def before(self, seed: int, length: int) -> int:
        """Tokens at the end of an input of that length that belong to the response.

        A client may leave out some of what it was given, such as the last token of a part that was cut off.
        """
        total, done = self._cut.get(seed, (0, 0))
        return max(done - (total - length), 0) if length <= total else 0

    def cut(self, seed: int, prompt: int, generated: int) -> None:
        """A request of `prompt` tokens was cut off after so many more."""
        self._cut[seed] = (prompt + generated, self.before(seed, prompt) + generated)

    def finished(self, seed: int) -> None:
        """The response is complete."""
        self._cut.pop(seed, None)

    def count(self, tokens: int) -> None:
        """A response of so many tokens is begun."""
        self.begun += 1
        self.tokens += tokens
