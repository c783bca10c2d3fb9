"""The contract of a buffer: nothing is lost, nothing is too stale, nothing depends on who finished first."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np

from rlscale.data.buffer import GroupBuffer
from rlscale.data.sample import Group
from rlscale.run.contracts.made_groups import made_group
from rlscale.trainer.hook_contract.findings import Finding, Report, reported

_PER_BATCH = 4
_VERSIONS = 12
_BOUNDS = (0, 1, 3)
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
    report.add("holds", "as many groups as were put in", len(buffer) == 0, f"{len(buffer)} when new")
    few = report.call("take from an empty one", buffer.take, 1, 0, 0)
    report.add("too few", "[] where there are fewer groups than asked for", few == [], f"{len(few)} of an empty one")
    report.call("put", buffer.put, made_group(7, 0))
    report.add("holds", "as many groups as were put in", len(buffer) == 1, f"{len(buffer)} after one")
    try:
        buffer.put(made_group(7, 0))
        refused = False
    except ValueError:
        refused = True
    report.add("twice", "ValueError for a second group of the same prompt", refused, "it" if refused else "it took it")
    few = buffer.take(2, 0, 0)
    report.add("too few", "[] where there are fewer groups than asked for", few == [], f"{len(few)} of 1 for 2")


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
        expired = [group.prompt.index for group in report.call("expire", buffer.expire, version, bound)]
        stale = [at for at, group in inside.items() if version - group.min_version > bound]
        text = f"{sorted(expired)} instead of {stale} ({where}, version {version})"
        report.add("expire", "exactly the groups over the bound", sorted(expired) == stale, text)
        late += len(stale)
        taken = [group.prompt.index for group in report.call("take", buffer.take, _PER_BATCH, version, bound)]
        for at in expired:
            inside.pop(at, None)
        wanted = _PER_BATCH if len(inside) >= _PER_BATCH else 0
        right = len(taken) == len({*taken}) == wanted and set(taken) <= set(inside)
        text = f"{taken} of {sorted(inside)} ({where}, version {version})"
        report.add("take", "n different groups that are in it, when nothing is in flight", right, text)
        for at in taken:
            inside.pop(at, None)
        left += taken
        held = len(buffer) == len(inside)
        report.add("holds", "as many groups as were put in", held, f"{len(buffer)}, not {len(inside)} ({where})")
    text = f"{buffer.dropped} instead of {late} ({where})"
    report.add("dropped", "the number of groups that expired", buffer.dropped == late, text)


def _whatever_is_finished_first(report: Report, build: Callable[[], GroupBuffer], bound: int) -> None:
    for versions in ([bound] * 2 * _PER_BATCH, [at % (bound + 1) for at in range(2 * _PER_BATCH)]):
        groups = [made_group(at, version, _REWARDS[at % len(_REWARDS)]) for at, version in enumerate(versions)]
        one, other = build(), build()
        for group in groups:
            one.put(copy.deepcopy(group))
        for group in reversed(groups):
            other.put(copy.deepcopy(group))
        first, second = (_taken(buffer, bound) for buffer in (one, other))
        text = f"{first} and {second} (max_staleness {bound})"
        report.add("order", "the same batch in whatever order groups are finished", first == second, text)


def _taken(buffer: GroupBuffer, bound: int) -> list[int]:
    return [group.prompt.index for group in buffer.take(_PER_BATCH, bound, bound)]


def _saved(report: Report, build: Callable[[], GroupBuffer], bound: int) -> None:
    one, other = build(), build()
    for at in range(_PER_BATCH + 2):
        one.put(made_group(at, 0, _REWARDS[at % len(_REWARDS)]))
    state = report.call("state_dict", one.state_dict)
    groups = isinstance(state, dict) and len(state.get("groups", ())) == _PER_BATCH + 2
    report.add("state", "`groups` in state_dict lists what it holds", groups, f"{sorted(state)}")
    report.call("load_state_dict", other.load_state_dict, pickle.loads(pickle.dumps(state)))
    first, second = _taken(one, bound), _taken(other, bound)
    same = first == second and len(one) == len(other)
    report.add("resume", "the same batch after saving and loading", same, f"{first} and {second}")
