"""The contract test of a prompt source of one's own: one finding per check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlscale.data.prompts.adaptive import Adaptive, Fate
from rlscale.data.prompts.messages import read_messages
from rlscale.data.prompts.sources import PromptSource, RawPrompt
from rlscale.data.sample import Prompt
from rlscale.rollout.state_encoding import saved_and_read
from rlscale.trainer.hook_contract.findings import Finding, Report, Status, reported

_MOST = 2000
"""Prompts that are looked at."""
_TAUGHT = 64
"""Prompts of which an adaptive source is told what became of them."""


def check_source(make: Callable[[], Any]) -> list[Finding]:
    """Read up to two epochs of a source, and go on from a saved state. `make` gives a source at its beginning."""
    with reported() as report:
        source = make()
        is_source = isinstance(source, PromptSource)
        missing = [name for name in ("next", "__len__", "state_dict", "load_state_dict") if not hasattr(source, name)]
        text = "it has them" if is_source else f"{', '.join(missing)} missing"
        report.add("methods", "next, __len__, state_dict and load_state_dict", is_source, text)
        report.stop_if_failed("methods")
        size = report.call("len", lambda: len(source))
        report.add("length", "at least one prompt in an epoch", size > 0, f"{size}")
        report.stop_if_failed("length")
        count = min(2 * size + 1, _MOST)
        found = report.call("next", source.next, count)
        _check_prompts(report, found, count, size)
        _check_state(report, make, found)
        if isinstance(source, Adaptive):
            _check_adaptive(report, make)
    return report.findings


def _check_prompts(report: Report, found: Any, count: int, size: int) -> None:
    right = isinstance(found, list) and all(isinstance(raw, RawPrompt) for raw in found)
    kinds = {type(raw).__name__ for raw in found} if isinstance(found, list) else {type(found).__name__}
    report.add("next gives", "a list of rlscale.data.prompts.sources.RawPrompt", right, f"{', '.join(sorted(kinds))}")
    report.stop_if_failed("next gives")
    report.add("count", "as many as asked for, whatever the epoch", len(found) == count, f"{len(found)} of {count}")
    report.stop_if_failed("count")
    indices = [raw.index for raw in found]
    wrong = next((place for place, index in enumerate(indices) if index != place), None)
    text = "they do" if wrong is None else f"number {wrong} has the index {indices[wrong]}"
    report.add("index", "indices count on from 0 over all epochs", wrong is None, text)
    for raw in found:
        _check_text(report, raw)
    epoch = [raw.id for raw in found[:size]]
    text = f"{len(set(epoch))} ids among {len(epoch)}"
    report.add(
        "id",
        "each prompt of an epoch has an id of its own",
        len(set(epoch)) == len(epoch),
        text,
        otherwise=Status.warned,
    )


def _check_text(report: Report, raw: RawPrompt) -> None:
    problem = None
    if isinstance(raw.prompt, str):
        problem = None if raw.prompt.strip() else "is empty"
    else:
        try:
            read_messages(raw.prompt)
        except ValueError as error:
            problem = str(error)
    text = "they are" if problem is None else f"prompt {raw.id} {problem}"
    report.add("prompt", "text or chat messages", problem is None, text)


def _check_state(report: Report, make: Callable[[], Any], found: Sequence[RawPrompt]) -> None:
    """Whether a fresh source gives the same, in other portions too, and goes on where another one stood."""
    again, portions = make(), []
    for number in (1, 2, 3):
        portions += again.next(number)
    few = list(found[: len(portions)])
    portions = portions[: len(few)]
    text = "it does" if portions == few else _first_difference(portions, few)
    report.add("deterministic", "the same prompts again, in portions of any size", portions == few, text)
    state = report.call("state_dict", again.state_dict)
    try:
        state = saved_and_read(state)
    except Exception as error:
        report.add("state", "a state that can be saved", False, f"{type(error).__name__}: {error}")
        return
    resumed = make()
    report.call("load_state_dict", resumed.load_state_dict, state)
    rest, expected = resumed.next(len(few)), again.next(len(few))
    text = "it does" if rest == expected else _first_difference(rest, expected)
    report.add(
        "state", "a fresh source goes on after the last prompt of the one that was saved", rest == expected, text
    )


def _check_adaptive(report: Report, make: Callable[[], Any]) -> None:
    """Whether what it learns follows from what it was told, and is part of its state."""
    one, other = make(), make()
    for source in (one, other):
        _teach(report, source)
    learned, again = one.next(_TAUGHT), other.next(_TAUGHT)
    text = "it does" if learned == again else _first_difference(again, learned)
    report.add("observe", "the same prompts again after the same observations", learned == again, text)
    resumed, taught = make(), make()
    _teach(report, taught)
    report.call("load_state_dict", resumed.load_state_dict, saved_and_read(taught.state_dict()))
    rest, expected = resumed.next(_TAUGHT), taught.next(_TAUGHT)
    text = "it is" if rest == expected else _first_difference(rest, expected)
    report.add("observe: state", "what it was told is part of its state", rest == expected, text)


def _teach(report: Report, source: Any) -> None:
    """Take prompts and tell what became of them: mostly solved, some not at all, filtered or failed."""
    fates: tuple[tuple[tuple[float, ...], Fate], ...] = (((1.0, 1.0, 0.0), "kept"), ((0.0, 0.0), "filtered"))
    for place, raw in enumerate(source.next(_TAUGHT)):
        prompt = Prompt(raw.index, raw.id, np.zeros(1, np.int32), raw.label, raw.info, source=raw.source)
        rewards, fate = ((), "failed") if place == _TAUGHT - 1 else fates[place % 5 == 4]
        report.call("observe", source.observe, prompt, rewards, fate)


def _first_difference(one: Sequence[RawPrompt], other: Sequence[RawPrompt]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shown = [
        f"{prompts[place].id} (index {prompts[place].index})" if place < len(prompts) else "none"
        for prompts in (one, other)
    ]
    return f"prompt {shown[0]} in place of {shown[1]}"
