"""Short runs of the recipes whose generation goes on through weight syncs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlscale.data.batches.fields import STALE
from rlscale.data.stored.stored_rollouts import StoredRollouts
from tests.e2e.run.command import metrics, only_run, run, summary

pytestmark = pytest.mark.timeout(300)
ITERATIONS = 6
BOUND = 4
"""Of both recipes."""


@pytest.mark.parametrize("recipe", ["arithmetic_partial", "arithmetic_async"])
def test_responses_go_on_through_syncs_and_every_token_is_accounted_for(short, tmp_path: Path, recipe: str) -> None:
    # The model was trained on nothing, so its responses are of any length; prompts have at most seven tokens.
    ended = run(
        tmp_path, f"recipe={recipe}", *short, "rollout.max_response_tokens=100", f"run.iterations={ITERATIONS}",
        "rollout.store=all", "eval.enabled=false",
    )  # fmt: skip
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    rows = metrics(folder)
    assert [row["groups"] for row in rows] == [4] * ITERATIONS
    assert summary(folder)["logprob_diff_max"] < 1e-4
    assert summary(folder)["canary_diff_max"] < 1e-4
    for account, came in (("prompts", "drawn"), ("tokens", "received")):
        entries = {key: value for key, value in rows[-1].items() if key.startswith(f"{account}/")}
        assert entries.pop(f"{account}/{came}") == sum(entries.values())
    masked, spans, ages, indices = 0, [], [], []
    for version in range(ITERATIONS):
        for group in StoredRollouts(folder, "").groups(version + 1):
            indices.append(group.prompt.index)
            for sample in group.samples:
                over = sample.loss_mask & (sample.versions < version - BOUND)
                assert np.array_equal(sample.columns.get(STALE, np.zeros_like(over)), over)
                masked += int(over.sum())
                generated = sample.versions[sample.loss_mask]
                spans.append(len(set(generated.tolist())))
                ages.append(version - int(generated.min()))
    assert len(set(indices)) == 4 * ITERATIONS
    assert rows[-1]["tokens/masked"] == masked
    if recipe == "arithmetic_partial":
        assert max(spans) > 1
    else:  # either the engine was cut off in the middle of responses, or it was so far ahead that it waited
        assert max(spans) > 1 or max(ages) > 1
    # Lost to a cut is a token at which the engine may have ended the response: here a special one, of a policy that
    # knows of nothing and says each of its words as often.
    assert rows[-1].get("tokens/discarded_cut_off", 0) < 0.02 * rows[-1]["tokens/received"]
