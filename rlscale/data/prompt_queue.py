"""Encoded prompts one after another: a source, an encoder, and the order between them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from rlscale.config.errors import UserError
from rlscale.data.prompts.adaptive import Fate, Observations
from rlscale.data.prompts.bad_rows import UNSEEN_RATE, BadPrompt, BadRows
from rlscale.data.prompts.sources import PromptSource, RawPrompt, Stream
from rlscale.data.sample import Prompt

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
CheckLabel = Callable[[Any], None]
"""ValueError for a label that the reward cannot compare with."""
CheckLabels = CheckLabel | Mapping[str, CheckLabel | None] | None
"""One for all prompts, or by the name of their source (what is not named there has that of ""), or none."""

_log = logging.getLogger(__name__)


class Encoder(Protocol[T_co]):
    """Makes of a raw prompt what is trained on."""

    dropped: int
    """Prompts left out so far because they were too long."""

    @property
    def limits(self) -> str:
        """The configuration's keys to raise when nothing fits."""

    def encode(self, raw: RawPrompt) -> T_co | None:
        """The encoded prompt; None, and counted, where it is too long. BadPrompt where it cannot be used."""


class PromptQueue(Generic[T]):
    """What an encoder makes of the prompts of a source that fit its limits.

    Prompts that cannot be encoded, or whose label `check_label` refuses, are dropped, counted (`bad`) and logged; past
    `max_bad_rate` of an epoch's prompts that is an error. null allows 1 %.
    """

    def __init__(
        self,
        source: PromptSource,
        encoder: Encoder[T],
        key: str = "data",
        max_bad_rate: float | None = None,
        check_label: CheckLabels = None,
    ) -> None:
        self._source = source
        self._encoder = encoder
        self._key = key
        self._max_bad_rate = UNSEEN_RATE if max_bad_rate is None else max_bad_rate
        self._check_label = check_label
        self._bad = BadRows(key, len(source))
        self._seen = 0
        self._observations = Observations(source)

    @property
    def dropped(self) -> int:
        """Prompts left out so far because they were too long."""
        return self._encoder.dropped

    @property
    def bad(self) -> int:
        """Prompts left out so far because they could not be used, those included that their source left out."""
        return self._bad.count + (self._source.left_out if isinstance(self._source, Stream) else 0)

    def take(self, n: int) -> list[T]:
        """The next n prompts. UserError when a whole epoch holds none that fits, or too many are bad."""
        taken: list[T] = []
        fruitless = 0
        while len(taken) < n:
            asked = n - len(taken)
            fitting = self.next(asked)
            taken += fitting
            fruitless = 0 if fitting else fruitless + asked
            if fruitless >= len(self._source):
                raise none_fits(self._key, len(self._source), self._encoder.limits)
        return taken

    def next(self, n: int) -> list[T]:
        """Those of the source's next n prompts that fit and are not bad. UserError if too many are bad."""
        self._observations.deliver()
        taken = [encoded for encoded in map(self._encoded, self._source.next(n)) if encoded is not None]
        for encoded in taken:
            self._observations.given_out(encoded)
        return taken

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        """A group is finished, or given up (no rewards): an adaptive source is told before the next prompts are taken.

        To be called once for every group, in any order, also while prompts are being taken in another thread.
        """
        self._observations.add(prompt, rewards, fate)

    def state_dict(self) -> dict[str, Any]:
        """The source's state, the counts of prompts seen and left out, and what an adaptive source is still to be told.

        Not while prompts are being taken.
        """
        observations = self._observations.state_dict()  # first: the source is told what it can be told by now
        counts = {"dropped": self._encoder.dropped, "bad": self._bad.count, "seen": self._seen}
        return {"source": self._source.state_dict(), "observations": observations, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last prompt taken when the state was saved."""
        self._source.load_state_dict(state["source"])
        self._encoder.dropped = int(state["dropped"])
        self._bad.count, self._seen = int(state.get("bad", 0)), int(state.get("seen", 0))
        if "observations" in state:
            self._observations.load_state_dict(state["observations"])

    def _encoded(self, raw: RawPrompt) -> T | None:
        self._seen += 1
        try:
            return encode_checked(raw, self._encoder, self._check_label, self._key)
        except BadPrompt as error:
            _log.warning("left out: %s", error)
            self._bad.add(error.where, error.reason)
            self._bad.total = max(self._seen, len(self._source))
            self._bad.refuse_past(self._max_bad_rate)
            return None


def encode_checked(raw: RawPrompt, encoder: Encoder[T], check_labels: CheckLabels, key: str) -> T | None:
    """The encoded prompt, its label checked too; None where it is too long. BadPrompt where either is unusable."""
    check_label = check_labels
    if isinstance(check_label, Mapping):
        check_label = check_label.get(raw.source, check_label.get(""))
    if check_label is not None:
        try:
            check_label(raw.label)
        except ValueError as error:
            raise BadPrompt(raw.where(key), f"has the label {_short(raw.label)}: {error}") from error
        except Exception as error:  # somebody's own function, which may raise anything
            reason = f"has the label {_short(raw.label)}, on which check_label fails with {error!r}"
            raise BadPrompt(raw.where(key), reason) from error
    return encoder.encode(raw)


def none_fits(key: str, count: int, limits: str) -> UserError:
    """That all of the prompts were too long."""
    return UserError(f"{key}: none of the {count} prompts fits; raise {limits}")


def _short(label: Any) -> str:
    text = ascii(label)
    return text if len(text) <= 80 else f"{text[:77]}..."
