"""The table at the end of a sweep: what each run changed and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlscale.observe.formatting import visible


def print_table(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print one row per run. A record has overrides (list), status, eval_before, eval_after, wall_seconds, output."""
    table = Table(title="sweep")
    for heading in ("overrides", "status", "before", "after", "time", "folder"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("before", "after", "time") else "left"
        )
    for record in records:
        table.add_row(
            _text(" ".join(record["overrides"]) or "-"),
            _text(str(record["status"])),
            _share(record["eval_before"]),
            _share(record["eval_after"]),
            _time(record["wall_seconds"]),
            _text(str(record["output"])),
        )
    (console or Console()).print(table)


def _text(text: str) -> Text:
    """As it is: a string's [...] would be taken for the terminal's markup."""
    return Text(visible(text))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
