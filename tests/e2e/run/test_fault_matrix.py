"""A twelfth of the fault matrix, by the machinery of benchmarks/faults.py, with every process, fault and phase."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fault_chain import Chain  # in benchmarks/
from fault_outcome import WELL
from faults import AHEAD, PLACEMENTS, RUN, undisturbed
from faulty_run import FaultyRun
from harms import can_starve

from rlscale.observe.jsonl import read
from tests.fault_volleys import DISAGGREGATED, volleys

pytestmark = pytest.mark.timeout(900)
SCALE = 0.2
"""Of the times that faults last, and of a run's patience."""
WORDS = (*RUN, "run.iterations=120", "cluster.answer_timeout_s=4")


def test_a_run_to_which_everything_happens_again_and_again_has_the_weights_of_an_undisturbed_one(
    warm: str, tmp_path: Path
) -> None:
    def start(folder: Path) -> FaultyRun:
        return FaultyRun(folder, [*WORDS, warm], os.getpid())

    calm = undisturbed(tmp_path, WORDS, start)
    rows = []
    with Chain(tmp_path / "rough", start, calm, scale=SCALE, slack=2.0) as chain:
        for volley in volleys():
            rows.append(chain.play(*volley))
            if len(rows) == 1:
                nothing_but_a_rank_was_lost(tmp_path / "calm", tmp_path / "rough")
            print(
                " + ".join(map(str, volley)),
                rows[-1].happens,
                rows[-1].seconds,
                rows[-1].afterwards,
                sep=" | ",
                flush=True,
            )
        assert chain.finish() == []
    assert [row for row in rows if row.seconds is None or row.afterwards != WELL] == []
    if not can_starve():
        pytest.skip("starved cells did not run, as this user may make no control group; all others have passed")


def test_a_disaggregated_run_to_which_everything_happens_trains_on_each_prompt_once(warm: str, tmp_path: Path) -> None:
    words = (*RUN, *PLACEMENTS[AHEAD], "run.iterations=120", "cluster.answer_timeout_s=4", warm)

    def start(folder: Path) -> FaultyRun:
        return FaultyRun(folder, words, os.getpid())

    with Chain(tmp_path / "rough", start, None, scale=SCALE, slack=2.0) as chain:
        rows = []
        for volley in volleys(DISAGGREGATED):
            rows.append(chain.play(*volley))
            print(" + ".join(map(str, volley)), rows[-1], sep=" | ", flush=True)
        assert chain.finish() == []
    assert [row for row in rows if row.seconds is None or row.afterwards != WELL] == []


def nothing_but_a_rank_was_lost(calm: Path, rough: Path) -> None:
    """One recovery, in which no prompt was drawn and no token generated that an undisturbed run has not."""
    logs = "".join(log.read_text() for log in rough.glob("command-*.log"))
    assert logs.count("starting the trainer's ranks again") == 1
    assert "the trainer's ranks are back" in logs
    theirs, ours = (list(read(folder / "run" / "metrics.jsonl")) for folder in (calm, rough))
    last = [row for row in ours if "weight_version" in row][-1]
    (same,) = (row for row in theirs if row.get("iteration") == last["iteration"] and "weight_version" in row)
    accounts = [name for name in same if name.startswith(("prompts/", "tokens/"))]
    assert accounts
    assert {name: last[name] for name in accounts} == {name: same[name] for name in accounts}
