"""A run on two sources with rewards of their own, whose evaluation sets have intervals and samples of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlscale.data.stored.stored_rollouts import StoredRollouts
from rlscale.observe import jsonl
from rlscale.observe.timeline import DRIVER, EVALUATION, read_timeline
from tests.e2e.run.command import SHORT, metrics, run, summary

OWN = (
    "reward@data.sources.small.reward=none",
    "data.sources.small.max_response_tokens=2",
    "eval.sets.small.every=1",
    "rollout.store=all",
    "run.output=mixed",
)


def evaluated(rows: list[dict[str, Any]]) -> dict[tuple[int, str], float]:
    """Every number that an evaluation found, by iteration and metric."""
    return {(row["iteration"], key): row[key] for row in rows for key in row if key.startswith("eval/")}


def test_a_mixture_trains_and_measures_each_source_by_itself(
    ready: list[str], shared: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path, "recipe=arithmetic_mixture", *SHORT, *OWN, *ready)
    assert done.code == 0, done.text
    trained = metrics(tmp_path / "mixed")
    rows = jsonl.read(tmp_path / "mixed" / "metrics.jsonl")
    # Of the eight groups of two iterations 0.3 are small sums; their reward gives nothing.
    assert sum(row["source/small/groups"] for row in trained) in (2, 3)
    assert sum(row["source/small/groups"] + row["source/large/groups"] for row in trained) == 8
    assert {row["source/small/reward"] for row in trained} == {0.0}
    assert all(row["source/small/response_length"] <= 2 for row in trained)
    # Before, after the first iteration, and at the end; the other set before and at the end.
    assert [row["iteration"] for row in rows if "eval/small/pass@4" in row] == [0, 1, 2]
    assert [row["iteration"] for row in rows if "eval/pass@1" in row] == [0, 2]
    assert set(summary(tmp_path / "mixed")["eval_after_metrics"]) == {"pass@1", "small/pass@1", "small/pass@4"}
    prompts = [group.prompt for n in (1, 2) for group in StoredRollouts(tmp_path / "mixed", "").groups(n)]
    assert {prompt.source for prompt in prompts} == {"small", "large"}
    assert all(max(map(int, p.text.split("=")[0].split("+"))) < 10 for p in prompts if p.source == "small")

    # Engines apart find the same of the same weights, while the others generate and the trainer trains.
    apart = ("run.output=apart", "eval.engines=1", "cluster.placement=disaggregated")
    done = run(tmp_path, "recipe=arithmetic_mixture", *SHORT, *OWN, *apart, *shared)
    assert done.code == 0, done.text
    found, expected = evaluated(jsonl.read(tmp_path / "apart" / "metrics.jsonl")), evaluated(rows)
    late = "still under way" in done.text  # then what was due after the first iteration is not measured there
    assert found == {key: value for key, value in expected.items() if key[0] != 1 or not late}
    spans = read_timeline(tmp_path / "apart")
    first = next(span for span in spans if span.lane == EVALUATION)
    # The loop goes on meanwhile: it waits for generation, or trains.
    going_on = [span for span in spans if span.lane == DRIVER and span.name in ("generate", "train")]
    assert any(span.start < first.end and span.end > first.start for span in going_on)
    assert sorted(path.name for path in (tmp_path / "apart" / "logs" / "eval").glob("*-0.log")) == [
        "engine-0.log", "launcher-0.log",
    ]  # fmt: skip
