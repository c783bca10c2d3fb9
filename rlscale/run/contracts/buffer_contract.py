"""The contract of a buffer: nothing is lost, nothing is too stale, nothing depends on who finished first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from rlscale.data.buffer import GroupBuffer
from rlscale.data.sample import Group
from rlscale.rollout.state_encoding import saved_and_read
from rlscale.run.contracts.made_groups import made_group
from rlscale.run.contracts.methods import report_methods
from rlscale.trainer.hook_contract.findings import Finding, Report, reported

_PER_BATCH = 4
_VERSIONS = 12
_BOUNDS = (0, 1, 3)
_HOLDS = "as many groups as were put in and not taken out"
_TOO_FEW = "[] where it holds fewer groups than are asked for"
_REWARDS = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.25, 0.5))


def check_buffer(build: Callable[[], GroupBuffer]) -> list[Finding]:
    """One finding per check of a buffer, run through batches at several staleness bounds."""
    with reported() as report:
        _alone(report, build)
        report.stop_if_failed("call", "holds")
        for bound in _BOUNDS:
            _through_a_run(report, build, bound)
            _whatever_is_finished_first(report, build, bound)
            _saved(report, build, bound)
    return report.findings


def _alone(report: Report, build: Callable[[], GroupBuffer]) -> None:
    buffer = report.call("new", build)
    report_methods(report, buffer, GroupBuffer)
    held = report.call("len", len, buffer)
    report.add("holds", _HOLDS, held == 0, f"{held} when new")
    few = report.call("take from an empty one", buffer.take, 1, 0, 0)
    report.add("too few", _TOO_FEW, few == [], f"{few!r} from an empty one")
    report.call("put", buffer.put, made_group(7, 0))
    held = report.call("len", len, buffer)
    report.add("holds", _HOLDS, held == 1, f"{held} after one")
    try:
        buffer.put(made_group(7, 0))
        refused = "it was accepted"
    except Exception as error:
        refused = type(error).__name__
    report.add("twice", "ValueError for a second group of the same prompt", refused == "ValueError", refused)
    few = report.call("take", buffer.take, 2, 0, 0)
    report.add("too few", _TOO_FEW, few == [], f"{_shown(few)} where one group was held and two were asked for")


def _through_a_run(report: Report, build: Callable[[], GroupBuffer], bound: int) -> None:
    """Groups come in by the version that generates them, some of them late, and leave in batches."""
    buffer, random, where = build(), np.random.default_rng(bound), f"max_staleness {bound}"
    inside: dict[int, Group] = {}
    left: list[int] = []
    index, late = 0, 0
    for version in range(_VERSIONS):
        for age in random.integers(0, bound + 2, _PER_BATCH + int(random.integers(0, 2))):
            group = made_group(index, max(0, version - int(age)), _REWARDS[index % len(_REWARDS)])
            report.call("put", buffer.put, group)
            inside[index], index = group, index + 1
        expired = _indices(report, "expire", report.call("expire", buffer.expire, version, bound))
        stale = [at for at, group in inside.items() if version - group.min_version > bound]
        right = sorted(expired) == stale
        text = f"{sorted(expired)}{'' if right else f' instead of {stale}'} ({where}, version {version})"
        report.add("expire", "exactly the groups over the bound", right, text)
        late += len(stale)
        taken = _indices(report, "take", report.call("take", buffer.take, _PER_BATCH, version, bound))
        for at in expired:
            inside.pop(at, None)
        wanted = _PER_BATCH if len(inside) >= _PER_BATCH else 0
        right = len(taken) == len({*taken}) == wanted and set(taken) <= set(inside)
        text = f"{taken} of {sorted(inside)} ({where}, version {version})"
        report.add("take", f"{_PER_BATCH} different groups that it holds, none where it holds fewer", right, text)
        for at in taken:
            inside.pop(at, None)
        left += taken
        held = report.call("len", len, buffer)
        report.add("holds", _HOLDS, held == len(inside), f"{held} of {len(inside)} ({where})")
    text = f"{buffer.dropped} of {late} ({where})"
    report.add("dropped", "the number of groups that expired", buffer.dropped == late, text)


def _whatever_is_finished_first(report: Report, build: Callable[[], GroupBuffer], bound: int) -> None:
    for versions in ([bound] * 2 * _PER_BATCH, [at % (bound + 1) for at in range(2 * _PER_BATCH)]):
        groups = [made_group(at, version, _REWARDS[at % len(_REWARDS)]) for at, version in enumerate(versions)]
        one, other = report.call("new", build), report.call("new", build)
        for group in groups:
            report.call("put", one.put, copy.deepcopy(group))
        for group in reversed(groups):
            report.call("put", other.put, copy.deepcopy(group))
        first, second = (_taken(report, buffer, bound) for buffer in (one, other))
        report.add("order", "the same batch in whatever order groups are finished", *_compared(first, second, bound))


def _taken(report: Report, buffer: GroupBuffer, bound: int) -> list[int]:
    return _indices(report, "take", report.call("take", buffer.take, _PER_BATCH, bound, bound))


def _indices(report: Report, check: str, groups: Any) -> list[int]:
    """The prompts of what a buffer handed out; ends the test where that is not a list of groups."""
    right = isinstance(groups, list) and all(isinstance(group, Group) for group in groups)
    if not right:
        report.add(check, "a list of groups", False, _shown(groups))
        report.stop_if_failed(check)
    return [group.prompt.index for group in groups]


def _shown(groups: Any) -> str:
    """What was handed out, in a line: how many groups, or something that is not a list."""
    return f"{len(groups)} groups" if isinstance(groups, list) else repr(groups)[:80]


def _compared(one: list[int], other: list[int], bound: int) -> tuple[bool, str]:
    text = f"{one} both times" if one == other else f"{one} and {other}"
    return one == other, f"{text} (max_staleness {bound})"


def _saved(report: Report, build: Callable[[], GroupBuffer], bound: int) -> None:
    one, other = report.call("new", build), report.call("new", build)
    for at in range(_PER_BATCH + 2):
        report.call("put", one.put, made_group(at, 0, _REWARDS[at % len(_REWARDS)]))
    state = report.call("state_dict", one.state_dict)
    expected = f"a dict whose `groups` lists the {_PER_BATCH + 2} groups that it holds"
    listed = isinstance(state, dict) and len(_indices(report, "state", state.get("groups"))) == _PER_BATCH + 2
    report.add(
        "state", expected, listed, f"a dict of {', '.join(state)}" if isinstance(state, dict) else repr(state)[:80]
    )
    report.stop_if_failed("state")
    saved = report.call("state_dict, saved and read again", lambda: saved_and_read(state))
    report.call("load_state_dict", other.load_state_dict, saved)
    same, text = _compared(_taken(report, one, bound), _taken(report, other, bound), bound)
    report.add("resume", "the same batch after saving and loading", same and len(one) == len(other), text)
