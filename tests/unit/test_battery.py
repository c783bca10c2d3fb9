"""A part of the battery of malformed input (`make battery` types all of it; docs/reliability.md has the counts)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.battery.__main__ import attempts, part, told
from tests.battery.attempt import GOOD, Outcome, judged
from tests.battery.case import Case, load
from tests.battery.left_behind import left_in_scratch

CASES = load()


def test_the_battery_is_large_and_most_of_it_is_malformed() -> None:
    malformed = [case for case in CASES if case.names is not None]
    assert len(malformed) >= 600
    assert len(CASES) - len(malformed) >= 60  # and enough of it is not, so that refusing everything fails


def test_every_malformed_input_of_a_twelfth_is_one_clear_line_and_what_works_is_accepted(tmp_path: Path) -> None:
    results = list(attempts(part(CASES, 12, seed=0), tmp_path))
    wrong = [told(result) for result in results if result.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)


LEAVES = """import os, subprocess, tempfile
subprocess.Popen(["sleep", "300"], start_new_session=True)
open(tempfile.mkstemp()[1], "w")
open(os.path.expanduser("~/.somewhere"), "w")
open("../beside", "w")
def score(response, label, info):
    return 0.0
"""


def test_what_a_case_leaves_behind_is_a_fault(tmp_path: Path) -> None:
    words = ["check-hook", "leaves.score", "kind=reward"]
    case = Case("control", "it leaves", words, [], names=None, files={"leaves.py": LEAVES})
    (result,) = attempts([case], tmp_path)
    assert result.outcome is Outcome.left, result.output
    left = [line for line in result.output.splitlines() if line.startswith("left behind: ")]
    assert len(left) == 4
    for place in ("process ", "/tmp/tmp", "/home/.somewhere", "/beside"):
        assert any(place in line for line in left), (place, left)


def test_so_is_what_is_left_in_the_scratch_that_all_share(tmp_path: Path) -> None:
    for name in ("cache", "models", "eval-x2f1"):
        (tmp_path / name).mkdir()
    assert left_in_scratch(tmp_path) == ["eval-x2f1"]


@pytest.mark.parametrize(
    ("words", "code", "output", "outcome"),
    [
        ("check", 1, "", Outcome.silent),
        ("check", 1, "error: a line, and the exit code of something that nobody expected\n", Outcome.silent),
        ("doctor", 1, "problem  ports: taken\nnot ready\n", Outcome.answered),
        ("doctor", 1, "", Outcome.silent),
        ("checkpoint compare a b", 1, "differ: x\n1 of 2 tensors that both have differ\n", Outcome.answered),
        ("check", 2, "error: a line\n", Outcome.answered),
        ("check", 2, "", Outcome.silent),
        ("check", 0, "", Outcome.answered),
    ],
)
def test_exit_code_1_is_an_answer_only_from_a_command_that_says_no_by_it(
    words: str, code: int, output: str, outcome: Outcome
) -> None:
    case = Case("mutated", "", words.split(), [], names=None, either=True)
    assert judged(case, code, output) is outcome
