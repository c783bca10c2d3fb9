"""Groups from before a stop: which are used when their prompts come again, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.rollout.group_journal import GroupJournal
from rlscale.rollout.recovered_groups import RecoveredGroups
from tests.unit.rollout.test_group_records import group


def after_a_kill(folder: Path) -> tuple[RecoveredGroups, GroupJournal]:
    killed = GroupJournal(folder, 1, 1)
    for index in range(2):
        killed.add(group(index, 0))
    journal = GroupJournal(folder, 1, 1)
    recovered = RecoveredGroups(journal, bound=1)
    recovered.resumed(0, first=True)
    return recovered, journal


@pytest.mark.parametrize(
    "changed",
    [{"label": "4"}, {"label": 3}, {"info": {"level": 2}}, {"id": "row 9"}, {"tokens": np.array([1, 3], np.int32)}],
)
def test_a_group_is_used_only_for_the_prompt_label_and_info_that_it_was_judged_by(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    recovered, _ = after_a_kill(tmp_path)
    zero, one = group(0, 0).prompt, group(1, 0).prompt
    assert recovered.take(replace(zero, **changed)) is None
    assert recovered.take(one) is not None
    assert recovered.used == 1


def test_that_rewards_of_before_the_stop_are_used_is_said_once(tmp_path: Path) -> None:
    recovered, journal = after_a_kill(tmp_path)
    recovered.resumed(1, first=False)
    assert journal.take_notes() == [
        "2 groups finished before the stop are used, with the rewards they got then; "
        "checkpoint.resume=never starts afresh"
    ]


def test_nothing_is_said_where_nothing_was_finished(tmp_path: Path) -> None:
    journal = GroupJournal(tmp_path, 1, 1)
    RecoveredGroups(journal, bound=1).resumed(0, first=True)
    assert journal.take_notes() == []
