from __future__ import annotations

import io

from rich.console import Console

from rlscale.observe.sweep_table import print_table


def test_the_table_shows_lists_in_overrides_and_folders_as_they_were_given() -> None:
    record = {
        "overrides": ["eval.pass_k=[1,2]", "data.path=a.jsonl@[0:3]", "run.seed=[red]1[/red]"],
        "status": "failed (exit code 2)",
        "eval_before": 0.5,
        "eval_after": None,
        "wall_seconds": 61.0,
        "output": "/runs/[bold]x\x1b[2J/0",
    }
    screen = io.StringIO()
    print_table([record], Console(file=screen, width=250))
    shown = screen.getvalue()
    for text in (*record["overrides"], "failed (exit code 2)", "0.500", "1:01", "/runs/[bold]x\\x1b[2J/0"):
        assert text in shown
