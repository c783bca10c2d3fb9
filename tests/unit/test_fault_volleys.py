"""The end-to-end tests play a twelfth of the fault matrix, and docs/reliability.md shows which."""

from __future__ import annotations

from pathlib import Path

from fault_cells import TWELFTH, all_cells, untouched  # in benchmarks/
from fault_outcome import WELL
from fault_table import table as matrix

from tests.fault_volleys import DISAGGREGATED, ELSEWHERE, VOLLEYS, ahead, played, table

ROOT = Path(__file__).parents[2]


def test_every_process_every_fault_and_every_phase_is_played_and_a_twelfth_of_all_cells() -> None:
    for cells in (set(played()), set(ahead())):
        assert untouched(cells) == []
        assert len(cells) >= len(all_cells()) / TWELFTH
    cells = set(played())
    assert untouched([cell for cell in cells if cell.phase != "save"]) == ["disk full", "save"]


def test_cells_that_befall_a_run_at_once_are_of_one_phase() -> None:
    assert all(len({text.rpartition(":")[2] for text in volley}) == 1 for volley in (*VOLLEYS, *DISAGGREGATED))


def test_each_twelfth_of_the_matrix_in_its_order_has_every_process_fault_and_phase() -> None:
    cells = all_cells()
    assert len(set(cells)) == 480
    assert [untouched(cells[first : first + 40]) for first in range(0, 480, 40)] == [[]] * TWELFTH


def test_the_table_says_of_each_cell_how_long_it_took_and_how_it_ended() -> None:
    rows = [
        ["rank", "kill", "train", "goes on", "8", WELL],
        ["rank", "kill", "stop", "error: rank 0 died, then resumed", "4", WELL],
        ["rank", "stop", "stop", "stopped, then resumed", "3", WELL],
        ["engine", "kill", "train", "goes on to its end", "9", "other weights"],
        ["engine", "kill", "train", "goes on", "5", WELL],  # run twice, and only once as it must be
    ]
    lines = matrix(rows).splitlines()
    of = {tuple(words[:2]): words[2:] for words in ([word.strip() for word in line.split("|")[1:-1]] for line in lines)}
    phase = of["process", "fault"].index
    assert [of["rank", "kill"][phase(name)] for name in ("train", "stop", "sync")] == ["8", "r 4", ""]
    assert (of["rank", "stop"][phase("stop")], of["engine", "kill"][phase("train")]) == ("s 3", "! 9")
    assert lines[-1] == (
        "4 cells: 1 go on by themselves, 1 end and are continued, 1 end as asked, 1 are not as they must be"
    )


def test_the_docs_show_the_cells_that_tests_play_and_where() -> None:
    docs = (ROOT / "docs" / "reliability.md").read_text()
    assert table(played()) in docs
    for volley in DISAGGREGATED:
        for process, fault, phase in (text.split(":") for text in volley):
            assert f"{process}, {fault}, {phase}" in docs
    for name in ("test_fault_matrix.py", *ELSEWHERE):
        assert f"`{name.removesuffix('.py')}`" in docs
        assert (ROOT / "tests" / "e2e" / "run" / name).exists()
