"""What the dashboard answers about runs, without its server."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.dashboard.answers_of_run import RunAnswers
from rlscale.dashboard.found_runs import describe, find_runs


async def read_answers(folders: list[Path], _port: int) -> None:
    """In the place of serving: everything is asked once, and what is refused is a line as in any other command."""
    for folder in find_runs(folders):
        describe(folder)
        run = RunAnswers(folder)
        run.reader.refresh(5.0)
        asked = (
            *(run.about, run.engines, run.fates, lambda run=run: run.groups(None), lambda run=run: run.groups(1)),
            *(lambda run=run: run.sample(1, 0), lambda run=run: run.timeline(None, None)),
            lambda run=run: run.curve("loss", 10, None, None),
        )
        for answer in asked:
            try:
                answer()
            except UserError as error:
                print(f"error: {error}")
