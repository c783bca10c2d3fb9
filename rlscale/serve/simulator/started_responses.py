"""Responses that were cut off, so that a request which goes on behind one ends where the response would have."""

from __future__ import annotations

from array import array


class StartedResponses:
    """By the seed of their requests. Also how long all responses are to be, in the order in which they were begun."""

    def __init__(self) -> None:
        self._cut: dict[int, tuple[int, int]] = {}
        self.lengths = array("l")
        """Tokens that each response begun so far has, or will have, in the end."""

    @property
    def begun(self) -> int:
        """How many there were."""
        return len(self.lengths)

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

    def asked_for(self, seed: int, tokens: int) -> None:
        """A response of so many tokens is begun, unless it is one that was cut off, be it before its first token."""
        if seed not in self._cut:
            self.lengths.append(tokens)
