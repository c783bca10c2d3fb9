"""Stored rollouts: what is read is what was written, bit by bit; what cannot be used is one line."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.rollout_config import RolloutConfig, Store, StoreFormat
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Scope
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.data.stored.rollout_file import read_groups, write_groups
from rlscale.data.stored.stored_rollouts import RolloutStore, StoredRollouts, spread
from rlscale.data.stored.trained_tokens import TrainedTokens, read_trained, write_trained
from rlscale.rollout.replay import ReplayService


@pytest.fixture
def own_column() -> Any:
    field = FIELDS.register(Field("stored_weight", np.float32, Scope.sample))
    yield field
    del FIELDS._fields["stored_weight"]


def group(index: int, seed: int = 0) -> Group:
    """Three samples: ordinary, of two segments and three turns, and one with experts and an odd reward."""
    rng = np.random.default_rng([seed, index])
    said = [{"role": "user", "content": f"größer als {index}?"}]
    prompt = Prompt(
        index, f"p{index}", rng.integers(0, 99, 4).astype(np.int32), {"answer": [1, 2.5, None]}, {"level": index},
        "<|im_start|>größer", said, [{"type": "function", "function": {"name": "f"}}], source="sums",
    )  # fmt: skip
    samples = []
    for place in range(3):
        length = 6 + place
        answer, logprobs = rng.integers(0, 99, length).astype(np.int32), rng.normal(size=length).astype(np.float32)
        experts = rng.integers(0, 8, (length + 3, 2, 4)).astype(np.int16) if place == 2 else None
        sample = Sample.from_response(
            prompt, place, answer, logprobs, 7, "length", f"r{place}", experts, f"r{place}<e>"
        )
        sample.reward = (0.1 + 0.2, -1.0, math.nan)[place]
        samples.append(sample)
    samples[1].loss_mask[6:8] = False
    samples[1].versions[6:8] = -1
    samples[1].later_segments = (Segment(3, 1),)
    samples[1].info = {"task_reward": 1.0, "turn_rewards": [0.5, np.float32(0.5)]}
    return Group(prompt, samples)


@pytest.mark.parametrize("form", list(StoreFormat))
def test_groups_are_read_as_they_were_written_bit_by_bit(tmp_path: Path, own_column: Any, form: StoreFormat) -> None:
    groups = [group(5), group(3)]
    for one in groups:
        for sample in one.samples:
            sample.columns["stored_weight"] = np.array(sample.index + 0.1, np.float32)
            sample.routed_experts = None
    RolloutStore(tmp_path, Store.all, 1, 1.0, form=form).write(1, 0, groups)
    read = StoredRollouts(tmp_path, "").groups(1)
    one, other = Batch.from_groups(groups, 2), Batch.from_groups(read, 2)
    assert one.columns.keys() == other.columns.keys() >= {"stored_weight", "rollout_logprobs"}
    for name in one.columns:
        assert (one.column(name).dtype, one.column(name).tobytes()) == (
            other.column(name).dtype,
            other.column(name).tobytes(),
        )
    for ours, theirs in zip(groups, read, strict=True):
        assert replace(ours.prompt, tokens=None) == replace(theirs.prompt, tokens=None)
        assert [s.later_segments for s in ours.samples] == [s.later_segments for s in theirs.samples]
        assert [(s.text, s.raw_text, s.finish_reason, s.index) for s in ours.samples] == [
            (s.text, s.raw_text, s.finish_reason, s.index) for s in theirs.samples
        ]
    assert read[0].samples[1].info == {"task_reward": 1.0, "turn_rewards": [0.5, 0.5]}


def test_routed_experts_come_back_and_other_tools_read_the_file(tmp_path: Path) -> None:
    write_groups(tmp_path / "a.parquet", [group(1)], {})
    sample, read = group(1).samples[2], read_groups(tmp_path / "a.parquet")[0].samples[2]
    assert sample.routed_experts is not None
    assert read.routed_experts is not None
    assert read.routed_experts.dtype == np.int16
    np.testing.assert_array_equal(read.routed_experts, sample.routed_experts)
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert row["tokens"] == group(1).samples[0].tokens.tolist()
    assert row["versions"] == [-1] * 4 + [7] * 6
    assert row["messages"] == '[{"role": "user", "content": "gr\\u00f6\\u00dfer als 1?"}]'


LOOKS = """
import sys
from pathlib import Path
from rlscale.data.stored.stored_rollouts import StoredRollouts
stored = StoredRollouts(Path(sys.argv[1]), "run.output")
assert stored.overview(1) and list(stored.samples(1, [0], logprobs=True)) and stored.outline(1)
print(stored.iterations, "pandas" in sys.modules)
"""


def test_looking_into_a_file_does_not_import_pandas_nor_mind_what_else_lies_there(tmp_path: Path) -> None:
    RolloutStore(tmp_path / "rollouts", Store.all, 8, 1.0).write(1, 0, [group(1)])
    for other in ("iteration_000002.trained.npz", "iteration_old.parquet", "readme.jsonl", ".iteration_000003.parquet"):
        (tmp_path / "rollouts" / other).touch()
    told = subprocess.run([sys.executable, "-c", LOOKS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert told.stdout == "[1] False\n", told.stderr


def test_what_json_cannot_hold_is_one_line(tmp_path: Path) -> None:
    odd = group(1)
    odd.prompt.label = {1, 2}
    with pytest.raises(UserError, match=r"label of prompt p1 cannot be stored as JSON \(set is not a plain value\)"):
        write_groups(tmp_path / "a.parquet", [odd], {})
    assert list(tmp_path.iterdir()) == []


def test_a_few_groups_are_spread_over_the_iteration() -> None:
    groups = [group(index) for index in (9, 1, 5, 3, 7, 2)]
    assert [one.prompt.index for one in spread(groups, 3)] == [1, 3, 7]
    assert [one.prompt.index for one in spread(groups, 99)] == [1, 2, 3, 5, 7, 9]
    assert spread(groups, 0) == []


def stored(folder: Path, keep: Store = Store.all, iterations: tuple[int, ...] = (1, 2)) -> Path:
    store = RolloutStore(folder / "rollouts", keep, 1, 0.8)
    for iteration in iterations:
        store.write(iteration, iteration - 1, [group(iteration), group(10 + iteration)])
    return folder


@pytest.mark.parametrize(
    ("keep", "iterations", "temperature", "wrong"),
    [
        (Store.all, (1, 2), 0.8, "holds the rollouts of the first 2 iterations; set run.iterations=2"),
        (Store.all, (2, 3, 4), 0.8, "iteration 1 is not stored there"),
        (Store.all, (1, 3, 4), 0.8, "of the first 1 iterations"),
        (Store.all, (1, 2, 3), 1.0, r"were sampled at 0.8; set it to that"),
        (Store.sampled, (1, 2, 3), 0.8, "a few of the groups only"),
        (Store.none, (1, 2, 3), 0.8, "no rollouts are stored there; a run stores them with rollout.store=all"),
    ],
)
def test_what_cannot_be_replayed_says_why(
    tmp_path: Path, keep: Store, iterations: tuple[int, ...], temperature: float, wrong: str
) -> None:
    with pytest.raises(UserError, match=wrong):
        StoredRollouts(stored(tmp_path, keep, iterations), "rollout.replay").check_replayable(3, temperature)


def test_an_earlier_attempt_is_replaced_and_a_cut_off_file_is_one_line(tmp_path: Path) -> None:
    RolloutStore(tmp_path / "rollouts", Store.all, 1, 0.8).write(1, 0, [group(77)])
    file = stored(tmp_path) / "rollouts" / "iteration_000001.parquet"
    assert [one.prompt.index for one in StoredRollouts(tmp_path, "x").groups(1)] == [1, 11]
    whole = file.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"iteration_000001.parquet is not a file of stored rollouts"):
            StoredRollouts(tmp_path, "x").groups(1)


def test_the_replay_service_hands_out_the_iterations_and_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    folder = str(stored(tmp_path, iterations=(1, 2, 3)))
    spec: Any = None

    def indices(groups: list[Group]) -> list[int]:
        return [one.prompt.index for one in groups]

    async def scenario() -> None:
        service = ReplayService(spec, folder)
        assert indices(await service.next_batch()) == [1, 11]
        await service.resume(1)
        assert indices(await service.next_batch()) == [2, 12]
        untrained, trained = await service.state_dict(trained=False), await service.state_dict()
        for state, following in ((untrained, [2, 12]), (trained, [3, 13])):
            resumed = ReplayService(spec, folder)
            await resumed.load_state_dict(state)
            assert indices(await resumed.next_batch()) == following
        stats = await service.stats()
        assert stats.counters == {"samples_replayed": 12, "tokens_replayed": 4 * (6 + 5 + 8)}
        with pytest.raises(UserError, match=r"set eval.enabled=false"):
            await service.evaluate(0)

    asyncio.run(scenario())


def test_the_section_names_the_service_that_replays() -> None:
    from rlscale.rollout.rollout_spec import _service

    section = _service(RolloutConfig(replay="/stored"))
    assert (section._target_, section.arguments) == ("rlscale.rollout.replay.ReplayService", {"folder": "/stored"})
    assert _service(RolloutConfig())._target_ == "rlscale.rollout.service.RolloutService"


def test_a_line_of_jsonl_is_plain_json_and_one_that_is_cut_off_is_named(tmp_path: Path) -> None:
    RolloutStore(tmp_path, Store.all, 1, 1.0, form=StoreFormat.jsonl).write(1, 4, [group(5), group(3)])
    path = tmp_path / "iteration_000001.jsonl"
    facts, first, _, odd, *rest = map(json.loads, path.read_text().splitlines())
    assert (facts["rlscale"]["weight_version"], len(rest)) == (4, 3)
    assert (first["label"], first["messages"]) == ({"answer": [1, 2.5, None]}, list(group(5).prompt.messages))
    assert (first["versions"], odd["reward"]) == ([-1] * 4 + [7] * 6, None)
    stored = StoredRollouts(tmp_path, "rollout.replay")
    assert [(index, round(reward, 1)) for index, reward in stored.outline(1)][3:5] == [(3, 0.3), (3, -1.0)]
    ((prompt, sample),) = stored.samples(1, [4])
    assert (prompt.index, sample.text, sample.info["turn_rewards"]) == (3, "r1", [0.5, 0.5])
    whole = path.read_bytes()
    for damaged, said in (
        (whole[:-9], r"line 7: Unterminated string|line 7: Expecting"),
        (b"".join(whole.splitlines(keepends=True)[:-1]), "it was written with 6 samples, and there are 5"),
        (_replaced(whole, 3, b"{}"), r"line 4: KeyError: '\w+'"),
        (_replaced(whole, 3, b"null"), "line 4: 'NoneType' object"),
        (_replaced(whole, 3, b'{"prompt_index": 1, "reward": "x", "arrays": 5}'), "line 4: "),
    ):
        path.write_bytes(damaged)
        for read in (stored.groups, stored.outline, lambda iteration: list(stored.samples(iteration, [2, 5]))):
            with pytest.raises(UserError, match=rf"iteration_000001\.jsonl cannot be read \(({said})"):
                read(1)


def _replaced(file: bytes, number: int, line: bytes) -> bytes:
    lines = file.splitlines()
    lines[number] = line
    return b"\n".join([*lines, b""])


@pytest.mark.parametrize("keep", [Store.all, Store.sampled])
def test_what_tokens_were_trained_with_is_read_by_the_row_of_their_sample(tmp_path: Path, keep: Store) -> None:
    groups = [group(index) for index in (5, 3, 9)]
    sizes = [sum(len(sample.tokens) for sample in one.samples) for one in groups]
    begin = dict(zip((5, 3, 9), np.cumsum([0, *sizes]).tolist(), strict=False))
    numbers = np.arange(sum(sizes), dtype=np.float32)
    store = RolloutStore(tmp_path / "rollouts", keep, 2, 1.0)
    store.write(1, 0, groups)
    stored = StoredRollouts(tmp_path, "run.output")
    samples = {row: group(prompt).samples[row % 3] for row, (prompt, _) in enumerate(stored.outline(1))}
    assert stored.trained(1, samples) == {}
    store.write_trained(1, groups, TrainedTokens(numbers, None if keep is Store.all else -numbers))
    trained = stored.trained(1, samples)
    assert trained.keys() == samples.keys()
    for row, (prompt, _) in enumerate(stored.outline(1)):
        found = trained[row]
        length = len(group(prompt).samples[row % 3].tokens)
        first = begin[prompt] + sum(len(sample.tokens) for sample in group(prompt).samples[: row % 3])
        assert found.advantages.tolist() == list(range(first, first + length))
        assert (found.logprobs is None) == (keep is Store.all)
    assert stored.trained(1, {len(samples): samples[0]}) == {}
    store.write(1, 0, groups)  # a later attempt, which has not trained yet
    assert stored.trained(1, samples) == {}


def test_trained_tokens_of_a_damaged_file_are_none(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.trained.npz", tmp_path / "sound.trained.npz"
    numbers = np.arange(5, dtype=np.float32)
    write_trained(sound, [2, 3], TrainedTokens(numbers, -numbers))
    with np.load(sound) as columns:
        written = dict(columns)
    assert read_trained(sound, {1: 3})[1].advantages.tolist() == [2, 3, 4]
    assert read_trained(sound, {0: 3, 1: 2, 2: 0, -1: 3}) == {}, "of samples that have other lengths, or are not there"
    whole = sound.read_bytes()
    texts = [
        b"",
        b"PK",
        b"no archive",
        whole[:100],
        whole[:-30],
        *(_flipped(whole, at) for at in range(0, len(whole), 3)),
    ]
    for text in texts:
        path.write_bytes(text)
        told = read_trained(path, {1: 3})
        assert told == {} or told[1].advantages.tolist() == [2, 3, 4]  # a bit of a date or a name that nobody reads
    wrong: dict[str, Any] = {
        "offsets": [[0, 2, 6], [0, 3, 2, 5], [1, 5], [[0, 5]], [], [0.0, 2.0, 5.0], 5],
        "advantages": [numbers[:4], numbers[:, None], 1.0],
        "logprobs": [numbers[:4], numbers[None]],
        "format": [2, "one", [1, 1]],
    }
    for name, values in wrong.items():
        for value in values:
            np.savez(path, **{**written, name: np.array(value)})
            assert read_trained(path, {0: 2}) == {}, (name, value)
    with path.open("wb") as file:
        np.save(file, numbers)  # an array by itself
    assert read_trained(path, {0: 2}) == {}


def _flipped(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 0x10]) + file[at + 1 :]


def test_groups_that_cannot_be_replaced_are_not_left_beside_what_others_were_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, groups = RolloutStore(tmp_path / "rollouts", Store.all, 1, 1.0), [group(5)]
    store.write(1, 0, groups)
    tokens = np.zeros(sum(len(sample.tokens) for sample in groups[0].samples), np.float32)
    store.write_trained(1, groups, TrainedTokens(tokens, None))
    samples = dict(enumerate(groups[0].samples))
    assert StoredRollouts(tmp_path, "").trained(1, samples).keys() == samples.keys()

    def full(*unused: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("rlscale.data.stored.rollout_file.write_groups", full)
    with pytest.raises(UserError, match="No space left"):
        store.write(1, 1, [group(3)])
    assert StoredRollouts(tmp_path, "").trained(1, samples) == {}


def test_a_pipe_among_stored_rollouts_is_none_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    os.mkfifo(tmp_path / "rollouts" / "iteration_000001.parquet")
    with pytest.raises(UserError, match="no rollouts are stored"):
        StoredRollouts(tmp_path, "rollout.replay")
