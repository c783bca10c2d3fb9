"""The contract of a filter: it says yes or no to a finished group, the same again, and leaves the group alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from rlscale.rollout.filters import Filter
from rlscale.run.contracts.made_groups import made_group
from rlscale.trainer.hook_contract.findings import Finding, Status, reported

_REWARDS = ((0.0,), (1.0,), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-2.5, 0.25, 7.0), tuple(np.linspace(0, 1, 16)))


def check_filter(build: Callable[[], Filter]) -> list[Finding]:
    """One finding per check of a filter, tried on groups of one to sixteen samples."""
    with reported() as report:
        keep = report.call("new", build)
        kept = 0
        for at, rewards in enumerate(_REWARDS):
            where = f"rewards {', '.join(f'{reward:g}' for reward in rewards[:4])}"
            group = made_group(at, 0, rewards)
            before = copy.deepcopy(group)
            answer = report.call(where, keep, group)
            report.add("answer", "true or false", isinstance(answer, bool | np.bool_), f"{answer!r} ({where})")
            report.stop_if_failed("answer")
            same = bool(report.call(where, keep, copy.deepcopy(before))) == bool(answer)
            report.add("deterministic", "the same answer again", same, "it is" if same else f"another ({where})")
            text = "it does" if repr(group) == repr(before) else f"it was changed ({where})"
            report.add("arguments", "the group stays as it was", repr(group) == repr(before), text)
            kept += bool(answer)
        text = f"{kept} of {len(_REWARDS)}"
        report.add("keeps", "some groups are kept", kept > 0, text, otherwise=Status.warned)
    return report.findings
