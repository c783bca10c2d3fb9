"""Trying a source before a run: its prompts encoded and its labels checked, all of them where that takes seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from rlscale.data.prompt_queue import CheckLabels, Encoder, encode_checked, none_fits
from rlscale.data.prompts.bad_rows import BadPrompt, BadRows
from rlscale.data.prompts.sources import PromptSource, RawPrompt, Stream

SECONDS = 5.0
"""How long a trial may take; what is left by then is checked when it is used."""
_LEAST = 64
"""Prompts that are tried however long they take."""
_OF_MANY = 256
"""Prompts that are tried of a source whose items are all of one form, or that cannot be looked into."""


def try_prompts(
    source: PromptSource,
    encoder: Encoder[Any],
    key: str,
    max_bad_rate: float | None,
    check_label: CheckLabels = None,
    seconds: float = SECONDS,
) -> list[str]:
    """Encode the prompts of a source that nobody else reads, and check their labels. Returns notes.

    ConfigError that lists the bad ones if they are more than `max_bad_rate` of those tried (null: any), UserError if
    all are too long. Where time runs out, those tried were spread over the whole source.
    """
    ends = time.monotonic() + seconds
    problems: list[tuple[int, str, str]] = []
    tried = long = 0
    for number, raw in _spread(source):
        if tried >= _LEAST and time.monotonic() > ends:
            break
        tried += 1
        try:
            long += encode_checked(raw, encoder, check_label, key) is None
        except BadPrompt as error:
            problems.append((number, error.where, error.reason))
    bad = BadRows(key, tried)
    for _, where, reason in sorted(problems):
        bad.add(where, reason)
    bad.refuse_past(max_bad_rate)
    total = len(source)
    if long == tried == total:
        raise none_fits(key, total, encoder.limits)
    notes = [bad.note()] if bad.count else []
    if long:
        notes.append(f"{key}: {long} of {tried} prompts are too long and left out ({encoder.limits})")
    if tried < total and isinstance(source, Stream) and not source.uniform:
        notes.append(f"{key}: {tried:,} of {total:,} prompts were tried before the run; the others are when used")
    return notes


def _spread(source: PromptSource) -> Iterator[tuple[int, RawPrompt]]:
    """Number and prompt of each item, in an order of which every beginning is spread evenly over the source."""
    if not isinstance(source, Stream):
        for number in range(min(len(source), _OF_MANY)):
            yield number, source.next(1)[0]
        return
    size = len(source)
    # A step of the golden ratio, made coprime to the size: it comes past every item once.
    step = max(1, round(size * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, size) > 1:
        step += 1
    for count in range(size if not source.uniform else min(size, _OF_MANY)):
        number = count * step % size
        yield number, source.item(number, number)
