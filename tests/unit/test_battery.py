"""A part of the battery of malformed input (`make battery` types all of it; docs/reliability.md has the counts)."""

from __future__ import annotations

from pathlib import Path

from tests.battery.__main__ import attempts, part, told
from tests.battery.attempt import GOOD
from tests.battery.case import load

CASES = load()


def test_the_battery_is_large_and_most_of_it_is_malformed() -> None:
    malformed = [case for case in CASES if case.names is not None]
    assert len(malformed) >= 600
    assert len(CASES) - len(malformed) >= 60  # and enough of it is not, so that refusing everything fails


def test_every_malformed_input_of_a_twelfth_is_one_clear_line_and_what_works_is_accepted(tmp_path: Path) -> None:
    results = list(attempts(part(CASES, 12, seed=0), tmp_path))
    wrong = [told(result) for result in results if result.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)
