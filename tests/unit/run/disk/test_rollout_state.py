"""The rollout's file in a checkpoint: restored exactly, or an error that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlscale.config.errors import UserError
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.run.disk.checkpoint import CheckpointStore, Progress, load_rollout
from rlscale.run.disk.rollout_state import RolloutStateDamaged, read_rollout_state, write_rollout_state
from tests.unit.run.same_values import assert_same


def state() -> dict[str, Any]:
    """Two groups in a buffer, and one that is still without its last sample."""
    rng = np.random.default_rng(0)

    def group(index: int, samples: int) -> Group:
        prompt = Prompt(index, str(index), rng.integers(0, 99, 4).astype(np.int32), "label", {"level": index})
        answers = [rng.integers(0, 99, 3 + place).astype(np.int32) for place in range(samples)]
        logprobs = [rng.normal(size=len(answer)).astype(np.float32) for answer in answers]
        pairs = enumerate(zip(answers, logprobs, strict=True))
        return Group(prompt, [Sample.from_response(prompt, place, *one, version=7) for place, one in pairs])

    buffer = Buffer()
    for index in (3, 5):
        buffer.put(group(index, 3))
    return {"version": 7, "buffer": buffer.state_dict(), "partial": [group(6, 2)], "counters": {"samples": 8}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("state") / "rollout.state"
    write_rollout_state(file, state())
    return file


def test_what_is_read_is_what_was_written_bit_by_bit(written: Path) -> None:
    assert_same(state(), read_rollout_state(written))


def test_a_file_that_was_cut_off_at_any_byte_is_a_named_error(written: Path, tmp_path: Path) -> None:
    whole, cut = written.read_bytes(), tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(RolloutStateDamaged, match=r"cut is cut off: it has [\d,]+ bytes"):
            read_rollout_state(cut)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_changed_byte_or_a_longer_file_is_a_named_error(written: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole, changed = bytearray(written.read_bytes()), tmp_path / "changed"
    place = data.draw(st.integers(0, len(whole)))
    if place == len(whole):
        whole += b"x"
    else:
        whole[place] ^= data.draw(st.integers(1, 255))
    changed.write_bytes(whole)
    with pytest.raises(UserError, match=r"is not what was written|is cut off|another version"):
        read_rollout_state(changed)


def test_a_checkpoint_holds_the_state_and_says_where_it_is_cut_off(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    begun = store.begin(Progress(iteration=1), "hash", state())
    whole = store.complete(begun)
    assert_same(state()["buffer"], load_rollout(whole)["buffer"])
    file = whole / "rollout.state"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RolloutStateDamaged, match=r"iteration_000001/rollout.state is cut off"):
        load_rollout(whole)
    assert store.newest() is None
