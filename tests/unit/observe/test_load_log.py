"""How busy each engine was, on file and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.observe.load_log import FILE, EngineLoadLog, engine_loads, read_engine_loads
from rlscale.observe.report import write_report


def load(running: float, waiting: float = 0.0, usage: float = 0.5) -> dict[str, float]:
    return {"running": running, "waiting": waiting, "usage": usage}


def logged(folder: Path, *rows: dict[str, dict[str, float]], resumed: int | None = None) -> None:
    log = EngineLoadLog(folder, resumed)
    for iteration, loads in enumerate(rows, (resumed or 0) + 1):
        log.log(iteration, loads)
    log.close()


def test_every_iteration_is_one_line_and_a_run_whose_engines_tell_nothing_has_no_file(tmp_path: Path) -> None:
    logged(tmp_path, {})
    assert not (tmp_path / FILE).exists()
    logged(tmp_path, {"http://a:1": load(3.0)}, {}, {"http://a:1": load(4.0)})
    assert [json.loads(line)["iteration"] for line in (tmp_path / FILE).read_text().splitlines()] == [1, 3]
    logged(tmp_path, {"http://a:1": load(9.0)}, resumed=1)
    assert [row["engines"]["http://a:1"]["running"] for row in read_engine_loads(tmp_path)] == [3.0, 9.0]


def test_few_engines_have_a_curve_each(tmp_path: Path) -> None:
    logged(tmp_path, {"http://a:1": load(3.0), "http://b:2": load(1.0, 2.0, 0.9)}, {"http://b:2": load(2.0)})
    running, waiting, usage = engine_loads(read_engine_loads(tmp_path))
    assert {s.name: s.points for s in running.series} == {"a:1": [(1.0, 3.0)], "b:2": [(1.0, 1.0), (2.0, 2.0)]}
    assert {s.name: s.points for s in waiting.series} == {"a:1": [(1.0, 0.0)], "b:2": [(1.0, 2.0), (2.0, 0.0)]}
    assert usage.form == "percent"


def test_of_many_engines_the_least_the_mean_and_the_most_are_drawn(tmp_path: Path) -> None:
    logged(tmp_path, {f"http://e:{number}": load(float(number)) for number in range(9)})
    running = engine_loads(read_engine_loads(tmp_path))[0]
    assert {s.name: s.points for s in running.series} == {
        "least": [(1.0, 0.0)],
        "mean": [(1.0, 4.0)],
        "most": [(1.0, 8.0)],
    }


@pytest.mark.parametrize("told", [True, False])
def test_the_report_draws_them_where_engines_told(told: bool, tmp_path: Path) -> None:
    logged(tmp_path, {"http://a:1": load(3.0)} if told else {})
    page = write_report(tmp_path).read_text()
    assert ("Requests waiting in each engine" in page) == told
    assert ("Cache in use in each engine" in page) == told
