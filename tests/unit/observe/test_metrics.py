from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.observe.chrome_trace import write_requests
from rlscale.observe.metrics import MetricsLog, read_metrics


def test_every_iteration_is_one_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log(1, {"loss": np.float32(0.5), "tokens": np.int64(7)})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line.endswith("\n")
    record = json.loads(line)
    assert (record["iteration"], record["loss"], record["tokens"]) == (1, 0.5, 7)


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    MetricsLog(tmp_path).log(1, {"a": float("nan"), "b": float("-inf"), "c": [1.0, float("inf")]})
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (record["a"], record["b"], record["c"]) == (None, None, [1.0, None])


def test_lines_of_one_iteration_are_joined_and_the_last_value_holds(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log(2, {"loss": 1.0})
    log.log(1, {"loss": 3.0})
    log.log(2, {"eval/pass@1": 0.5, "loss": 2.0})
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2]
    assert rows[1]["loss"] == 2.0
    assert rows[1]["eval/pass@1"] == 0.5


def test_a_continued_run_drops_what_it_will_make_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for iteration in range(6):
        log.log(iteration, {"loss": float(iteration)})
    log.close()
    MetricsLog(tmp_path, resumed=3).log(4, {"loss": 40.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3, 40.0]


def test_a_line_cut_in_half_by_a_kill_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log(1, {"loss": 1.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 2, "lo')
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1]
    MetricsLog(tmp_path, resumed=2).log(2, {"loss": 2.0})
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_fresh_run_starts_an_empty_file(tmp_path: Path) -> None:
    MetricsLog(tmp_path).log(1, {"loss": 1.0})
    MetricsLog(tmp_path)
    assert read_metrics(tmp_path) == []


def test_a_link_in_the_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = tmp_path / "bashrc"
    elsewhere.write_text("alias")
    for resumed in (None, 1):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        (tmp_path / "metrics.jsonl").symlink_to(elsewhere)
        MetricsLog(tmp_path, resumed=resumed).log(2, {"loss": 1.0})
        assert elsewhere.read_text() == "alias"
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "requests.jsonl").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"requests.jsonl is a link to .*bashrc, .*; remove it$"):
        write_requests(tmp_path, [{"engine": "one"}], 0)
    assert elsewhere.read_text() == "alias"
