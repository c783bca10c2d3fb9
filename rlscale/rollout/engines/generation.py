"""What comes back from an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.fields import FIELDS, RELATIVE_TEMPERATURE, SUPPORT, equally_wide


class RequestFailed(Exception):
    """A request that got no usable answer; the message says why."""


@dataclass(frozen=True)
class Generation:
    """What an engine generated: `tokens` int32 [m], `logprobs` float32 [m] of log_softmax(logits / temperature).

    With the column SUPPORT (int32 [m, most], filled up with -1) they are of the softmax over those words only, and
    where it is all -1 over all words. `columns` [m, ...] has what else the engine says of each token, by field.

    Log-probs are as the engine sent them: one that is not a number there (JSON's null) is nan.
    `finish_reason` is SGLang's: "stop", "length", or "abort" (then `message` may say why, and `tokens` are those
    generated until then); `versions` int32 [m] the weight version that generated each token, -1 if the engine was never
    told one. `routed_experts` int16 [n + m - 1, layers, top_k], where asked for: the experts that each token of prompt
    (n) and response was sent to, but for the last, which never was an input. With "abort" they may be missing.
    `interrupted`: the engine ended before the request did; what there is was sent before (`StreamedAnswer`).
    """

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    finish_reason: str
    versions: NDArray[np.int32]
    message: str = ""
    routed_experts: NDArray[np.int16] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    interrupted: bool = False

    def at_temperature(self, relative: float) -> Generation:
        """The same, which says that each token was drawn at so many times the run's temperature."""
        column = np.full(len(self.tokens), relative, RELATIVE_TEMPERATURE.dtype)
        return replace(self, columns={**self.columns, RELATIVE_TEMPERATURE.name: column})

    def of_all_words(self) -> Generation:
        """The same, which says that no word was left out."""
        none = np.full((len(self.tokens), 1), SUPPORT.fill, np.int32)
        return replace(self, columns={**self.columns, SUPPORT.name: none})


def joined_columns(parts: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> dict[str, NDArray[Any]]:
    """Columns of parts that follow one another, given as (tokens, columns); filled where a part does not have one."""
    found = {}
    for name in dict.fromkeys(name for _, columns in parts for name in columns):
        known = FIELDS[name]
        values = [
            columns[name] if name in columns else np.full((tokens, *[1] * known.axes), known.fill, known.dtype)
            for tokens, columns in parts
        ]
        found[name] = np.concatenate(equally_wide(values, known))
    return found
