"""A recipe for machines of 8 GPUs, on this one, and what its page shows: the end of tests/unit/test_users_path.py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import yaml

from rlscale.dashboard.found_runs import run_id
from rlscale.dashboard.page_server import PageServer
from tests.e2e.dashboard.browser import PROGRAM, opened
from tests.e2e.run.command import metrics, run, summary


def test_a_recipe_for_eight_gpus_runs_here_with_a_small_model_of_its_family(tmp_path: Path, ready: list[str]) -> None:
    rows = [json.dumps({"problem": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(16)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:8]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[8:]))
    data = ["data.path=train.jsonl", "eval.data.path=test.jsonl"]
    short = ["eval.enabled=false", "checkpoint.every=0", "run.output=run"]
    ended = run(tmp_path, "recipe=qwen3_30b_math", *data, "debug=tiny_model", *short, *ready)
    assert ended.code == 0, ended.text
    used = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text())
    assert used["model"]["create"]["architecture"]["model_type"] == "qwen3_moe"
    assert used["algo"]["name"] == "gspo"
    lines = metrics(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert all(line["response_length"] > 0 for line in lines)
    assert 0 < summary(tmp_path / "run")["logprob_diff_max"] < 1e-4
    if PROGRAM is not None:  # elsewhere tests/e2e/dashboard is skipped with a line
        asyncio.run(shown_in_a_browser(tmp_path))


async def shown_in_a_browser(folder: Path) -> None:
    """The page draws the run's iterations and lanes; what it looks like is kept as dashboard.png."""
    server = PageServer([folder])
    await server.start()
    try:
        async with opened(f"{server.url}#{run_id((folder / 'run').resolve())}", folder) as browser:
            await browser.until("document.querySelector('#charts [data-metric=response_length]') !== null")
            await browser.until("charts.get('response_length')?.plot?.data[0].length === 3")
            await browser.until("document.querySelectorAll('#lanes rect').length > 5")
            await browser.picture(folder / "dashboard.png")
            assert browser.complaints == []
    finally:
        await server.close()
    assert (folder / "dashboard.png").stat().st_size > 10_000
