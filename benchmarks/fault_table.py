"""What the cells of the fault matrix came to, as one table: a row for each process and fault, a column for each phase.

    python benchmarks/fault_table.py FOLDER...

Each FOLDER is one of `benchmarks/faults.py --results`; they may be of parts of the matrix. A cell has the seconds until
the run was two iterations further, `r` before them where it ended first, in its line or killed with its command, and
was continued by the same one, `s` where it ended as it was asked to, and `!` where something was not as it must be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fault_cells import PROCESSES
from fault_outcome import WELL
from faulty_run import PHASES
from harms import FAULTS


def rows_of(folders: Sequence[Path]) -> list[list[str]]:
    """The rows of `faults.Results` in these folders, those of each kind of run."""
    return [row for folder in folders for file in sorted(folder.glob("*.json")) for row in _rows(file)]


def _rows(file: Path) -> list[list[str]]:
    stored = json.loads(file.read_text())
    rows: list[list[str]] = stored.get("rows", [])  # another file there is that of `warm`
    return rows


def said(row: Sequence[str]) -> str:
    """A row in a word: see the module."""
    _, _, _, happens, seconds, afterwards = row
    if afterwards != WELL:
        return f"! {seconds}"
    if happens.startswith("goes on"):
        return seconds
    return f"{'s' if happens.startswith('stopped') else 'r'} {seconds}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table, and how many cells of which kind it has."""
    found: dict[tuple[str, str, str], str] = {}
    for row in sorted(rows, key=lambda row: row[-1] != WELL):  # of a cell that was run twice, what was not well
        found[row[0], row[1], row[2]] = said(row)
    lines = [f"| process | fault | {' | '.join(PHASES)} |", "|---|---|" + "--:|" * len(PHASES)]
    for process in PROCESSES:
        for fault in FAULTS:
            cells = [found.get((process, fault, phase), "") for phase in PHASES]
            lines.append(f"| {process} | {fault} | {' | '.join(cells)} |")
    kinds = [word.split()[0] if " " in word else "" for word in found.values()]
    counts = (len(found), kinds.count(""), kinds.count("r"), kinds.count("s"), kinds.count("!"))
    told = "{} cells: {} go on by themselves, {} end and are continued, {} end as asked, {} are not as they must be"
    return "\n".join([*lines, "", told.format(*counts)])


if __name__ == "__main__":
    print(table(rows_of([Path(folder) for folder in sys.argv[1:]])))
