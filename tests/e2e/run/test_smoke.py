"""One step on the longest batch, without engines: what a user asks of the machine itself before a run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.run.command import run


def test_a_step_is_made_on_the_longest_batch_and_nothing_of_it_stays(ready: list[str], tmp_path: Path) -> None:
    words = ["run.smoke=true", "algo=ppo", "trainer.max_tokens_per_microbatch=64", "parallel.data=2"]
    ended = run(tmp_path, *words, *ready)
    assert ended.code == 0, ended.text
    # Three samples of 21 tokens fill a micro-batch; two of them on each rank are twelve, in groups of eight.
    assert re.search(r"one step on 16 samples of 21 tokens, \d micro-batches on each of 2 ranks: [\d.]+ s", ended.text)
    peak = re.search(r"it took ([\d.]+) GB of a rank's process at most", ended.text)
    assert peak is not None, ended.text
    assert 0.1 < float(peak[1]) < 4.0
    assert "the warm start is left out" in ended.text
    assert not list((tmp_path / "outputs").rglob("*.*"))
