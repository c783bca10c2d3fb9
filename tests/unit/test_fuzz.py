"""A part of `make fuzz`: mutated command lines and files, and malformed HTTP requests to every endpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.battery.__main__ import attempts, told
from tests.battery.attempt import GOOD
from tests.battery.case import load
from tests.battery.http_requests import BYTES, SERVERS
from tests.battery.mutations import mutated

SEED = 3


def test_the_same_seed_gives_the_same_cases_and_another_gives_others() -> None:
    cases = load()
    one, again, other = (list(mutated(cases, 50, seed)) for seed in (SEED, SEED, SEED + 1))
    assert one == again
    assert [case.argv for case in one] != [case.argv for case in other]


def test_whatever_is_typed_or_lies_there_is_answered_in_lines(tmp_path: Path) -> None:
    quick = [case for case in load() if not case.stock]  # making good folders to damage takes longer than all of these
    wrong = [told(one) for one in attempts([*mutated(quick, 4, SEED)], tmp_path) if one.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SERVERS)
def test_a_malformed_request_is_refused_by_its_status_and_leaves_nothing_behind(name: str) -> None:
    answered = asyncio.run(SERVERS[name](60, SEED))
    assert [one for one in answered if not one.good] == []
    refused = sum(one.status is not None and one.status >= 400 for one in answered)
    assert refused > len(BYTES)
