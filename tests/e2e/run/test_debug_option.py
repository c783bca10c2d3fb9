"""A recipe for machines of 8 GPUs, on this one, and what its page shows: the end of tests/unit/test_users_path.py."""

from __future__ import annotations

import asyncio
import gzip
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
    profiled = ["profile.iterations=[2]", "profile.engine_steps=2"]
    ended = run(tmp_path, "recipe=qwen3_30b_math", *data, "debug=tiny_model", *short, *profiled, *ready)
    assert ended.code == 0, ended.text
    used = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text())
    assert used["model"]["create"]["architecture"]["model_type"] == "qwen3_moe"
    assert used["algo"]["name"] == "gspo"
    lines = metrics(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert all(line["response_length"] > 0 for line in lines)
    assert 0 < summary(tmp_path / "run")["logprob_diff_max"] < 1e-4
    has_traces_of_the_second_iteration(tmp_path / "run" / "profile", requests=int(lines[1]["samples"]))
    if PROGRAM is not None:  # elsewhere tests/e2e/dashboard is skipped with a line
        asyncio.run(shown_in_a_browser(tmp_path))


def has_traces_of_the_second_iteration(folder: Path, requests: int) -> None:
    """Of the rank and of the engine what they computed; of the whole run its spans, with that iteration's requests."""
    second = "iteration_000002"
    traces = [f"{second}.engine-0-TP-0.trace.json.gz", f"{second}.rank-0.trace.json.gz"]
    assert sorted(file.name for file in folder.iterdir()) == [*traces, "requests.jsonl", "trace.json"]
    for name in traces:
        with gzip.open(folder / name) as file:
            operators = {event.get("name") for event in json.load(file)["traceEvents"]}
        assert operators & {"aten::mm", "aten::linear"}, name
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} >= {"generate", "train", "sync"}
    assert sum(event["name"] == "request" and event["ph"] == "b" for event in events) == requests


async def shown_in_a_browser(folder: Path) -> None:
    """The page draws the run's iterations and lanes; what it looks like is kept as dashboard.png."""
    server = PageServer([folder])
    await server.start()
    try:
        async with opened(f"{server.url}#{run_id((folder / 'run').resolve())}", folder) as browser:
            await browser.until("document.querySelector('#charts [data-metric=response_length]') !== null")
            await browser.until("charts.get('response_length')?.plot?.data[0].length === 3")
            await browser.until("document.querySelectorAll('#lanes rect').length > 5")
            lanes = await browser.value(
                "[...document.querySelectorAll('#lanes text.lane')].map((one) => one.textContent)"
            )
            assert {"engine", "rank"} <= {lane.split()[0] for lane in lanes}, "each process has one"
            await browser.picture(folder / "dashboard.png")
            assert browser.complaints == []
    finally:
        await server.close()
    assert (folder / "dashboard.png").stat().st_size > 10_000
