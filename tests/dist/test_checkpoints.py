"""A trainer that is stopped and started again from its checkpoint is the trainer that went on."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoint_scenarios
import numpy as np
import pytest
import scenarios
import torch
import torch.distributed.checkpoint
from rank_pool import RankFailed, RankPool, start_process
from training_data import divide, divide_for, make_batch, make_spec

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig, Schedule
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.platform.ports import free_port
from rlscale.run.disk.checkpoint import CheckpointStore
from rlscale.trainer.trainer_spec import TrainerSpec

Layout = dict[str, Any]
"""Sizes of `parallel`, whether the optimizer is `distributed`, and a `dtype` other than float32."""

BF16 = {"dtype": DType.bfloat16}
VIRTUAL: Layout = {"pipeline": 2, "virtual_pipeline": 2}

SAME: list[tuple[str, Layout]] = [
    ("dense", {}),
    ("dense", {"tensor": 2, "sequence": True, **BF16}),
    ("dense", {"data": 2, "distributed": True}),
    ("dense", {"pipeline": 2}),
    ("deep", VIRTUAL),
    ("dense", {"context": 2}),
    ("moe", {"expert": 2, "data": 2, "distributed": True, **BF16}),
]

OTHER: list[tuple[str, Layout, Layout]] = [
    ("dense", {}, {"tensor": 2}),
    ("dense", {"tensor": 2}, {}),
    ("tied", {}, {"pipeline": 2}),
    ("deep", VIRTUAL, {}),
    ("deep", VIRTUAL, {"pipeline": 2}),
    ("deep_moe", {}, VIRTUAL),
    ("dense", {"data": 2, "distributed": True}, {"tensor": 2}),
    ("dense", {}, {"data": 2, "distributed": True}),
    ("moe", {}, {"expert": 2, "data": 2}),
    ("moe", {"data": 2, "distributed": True}, {"expert": 2, "data": 2, "distributed": True}),
    ("moe", {"expert": 2, "data": 2, "distributed": True}, {}),
]


HANDED_ON: list[tuple[str, list[Layout]]] = [
    ("dense", [{}, {"tensor": 2}, {"data": 2, "distributed": True}, {}]),
    ("tied", [{"data": 2, "distributed": True}, {"pipeline": 2}]),
    ("moe", [{}, {"expert": 2, "data": 2}, {"expert": 2, "data": 2, "distributed": True}, {}]),
]
"""Layouts each of which reads what the one before it wrote."""


def spec_of(folder: Path, layout: Layout, **options: Any) -> TrainerSpec:
    options |= {"dtype": layout.get("dtype", DType.float32)}
    sizes = {name: size for name, size in layout.items() if name not in ("distributed", "dtype")}
    optim = OptimConfig(lr=1e-2, warmup_steps=1, schedule=Schedule.cosine)
    trainer = TrainerConfig(distributed_optimizer=layout.get("distributed", False))
    return make_spec(folder, parallel=sizes, optim=optim, trainer=trainer, **options)


def ranks_of(layout: Layout) -> int:
    return 2 if layout.keys() - {"distributed", "dtype"} else 1


def iterations_of(spec: TrainerSpec) -> list[Any]:
    return [divide_for(make_batch(spec.algo, seed=seed), spec) for seed in range(4)]


@pytest.mark.parametrize(("model", "layout"), SAME)
def test_training_resumed_from_a_copy_written_meanwhile_gives_the_same_bits(
    model: str, layout: Layout, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = spec_of(models[model], layout), str(tmp_path / "saved")
    iterations, ranks = iterations_of(spec), ranks_of(layout)
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, True, world_size=ranks)
    resumed = pool.run(scenarios.resume, spec, iterations[2:], folder, world_size=ranks)
    for before, after in zip(straight, resumed, strict=True):
        assert after["steps"] == 2
        for name, weight in before["weights"].items():
            np.testing.assert_array_equal(after["weights"][name], weight, err_msg=name)
        assert before["metrics"]["lr"] == after["metrics"]["lr"]
        assert before["metrics"]["loss"] == after["metrics"]["loss"]


@pytest.mark.parametrize(("model", "written", "read"), OTHER)
def test_checkpoint_of_one_layout_is_continued_in_another(
    model: str, written: Layout, read: Layout, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    one, other = spec_of(models[model], written), spec_of(models[model], read)
    folder = str(tmp_path / "saved")
    straight = pool.run(
        scenarios.train_and_save_halfway, one, iterations_of(one), folder, world_size=ranks_of(written)
    )[0]
    resumed = pool.run(scenarios.resume, other, iterations_of(other)[2:], folder, world_size=ranks_of(read))[0]
    assert resumed["steps"] == 2
    assert resumed["metrics"]["lr"] == straight["metrics"]["lr"]
    for name, weight in straight["weights"].items():
        np.testing.assert_allclose(resumed["weights"][name], weight, atol=5e-5, rtol=0, err_msg=name)


def tensors_of(folder: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, put together from its shards, by its name there."""
    reader = torch.distributed.checkpoint.FileSystemReader(folder)
    known = reader.read_metadata().state_dict_metadata
    shards = {name: entry for name, entry in known.items() if hasattr(entry, "properties")}
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in shards.items()}
    torch.distributed.checkpoint.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(("model", "layouts"), HANDED_ON)
def test_sixteen_bit_model_and_its_optimizer_are_the_same_bits_after_other_layouts(
    model: str, layouts: list[Layout], pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    first, *others = (spec_of(models[model], layout | BF16) for layout in layouts)
    folder = str(tmp_path / "0")
    pool.run(scenarios.train_and_save_halfway, first, iterations_of(first), folder, world_size=ranks_of(layouts[0]))
    expected = tensors_of(folder)
    weight = "embedding.word_embeddings.weight"
    main = expected[f"optimizer.state.fp32_param.{weight}"]
    assert expected[weight].dtype == torch.bfloat16
    assert torch.equal(main.bfloat16(), expected[weight])
    assert not torch.equal(main, expected[weight].float())
    for number, (spec, layout) in enumerate(zip(others, layouts[1:], strict=True), 1):
        before, folder = folder, str(tmp_path / str(number))
        ranks = ranks_of(layout)
        assert pool.run(checkpoint_scenarios.load_and_save, spec, before, folder, world_size=ranks) == [2] * ranks
        got = tensors_of(folder)
        assert got.keys() == expected.keys()
        assert torch.load(Path(folder) / "common.pt", weights_only=False)["optimizer"]["step"] == 2
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, msg=f"{name} after {layout}")


def test_weights_alone_of_a_checkpoint_start_a_run_of_another_layout(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = spec_of(models["moe"], {}), str(tmp_path / "saved")
    parts = iterations_of(spec)[0]
    trained = pool.run(scenarios.train_and_save_halfway, spec, [parts], folder, world_size=1)[0]
    assert trained["weights"]
    expected = pool.run(scenarios.resume, spec, [], folder, world_size=1)[0]["weights"]
    other = replace(spec_of(models["moe"], {"expert": 2, "data": 2}), init_path=folder)
    steps, weights = pool.run(checkpoint_scenarios.weights_alone, other, world_size=2)[0]
    assert steps == 0
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight, err_msg=name)


def test_a_rank_keeps_no_object_of_a_save_that_is_finished(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, saves = spec_of(models["dense"], {}), 8
    (more,) = pool.run(checkpoint_scenarios.held_after_further_saves, spec, str(tmp_path), saves, world_size=1)
    assert {kind: number for kind, number in more.items() if number >= saves} == {}


def test_writing_that_is_cut_off_by_a_kill_leaves_the_checkpoint_before_it(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, store = spec_of(models["dense"], {}), CheckpointStore(tmp_path / "checkpoints", keep=2)
    parts = iterations_of(spec)[0]
    ours, theirs = multiprocessing.Pipe()
    arguments = (spec, parts, str(store.folder), free_port("127.0.0.1"), theirs)
    process = start_process(checkpoint_scenarios.save_until_killed, *arguments)
    assert ours.poll(120.0), "the third step did not wait for the second checkpoint"
    after_three = ours.recv()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in store.folder.iterdir()) == ["iteration_000001", "partial-iteration_000002"]
    newest = store.newest()
    assert newest is not None
    resumed = pool.run(scenarios.resume, spec, [parts, parts], str(newest / "trainer"), world_size=1)[0]
    assert resumed["steps"] == 1
    for name, weight in after_three.items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)


def test_full_disk_of_one_rank_is_an_error_on_all_and_the_training_goes_on(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(models["dense"], {"tensor": 2})
    folders = [str(tmp_path / name) for name in ("before", "full", "full at once", "after")]
    for said in pool.run(checkpoint_scenarios.save_on_a_full_disk, spec, iterations_of(spec)[0], folders, world_size=2):
        assert said == ["", *["UserError: rank 1: [Errno 27] File too large"] * 2, ""]
    assert [(Path(folder) / "metadata.json").exists() for folder in folders] == [True, False, False, True]
    steps = [pool.run(scenarios.resume, spec, [], folders[n], world_size=2)[0]["steps"] for n in (0, 3)]
    assert steps == [0, 3]


@pytest.mark.parametrize("distributed", [False, True])
def test_checkpoint_before_the_first_step_can_be_resumed(
    distributed: bool, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = spec_of(models["dense"], {"distributed": distributed}), str(tmp_path / "saved")
    iterations = [divide(make_batch(spec.algo), 1)]
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=1)[0]
    resumed = pool.run(scenarios.resume, spec, iterations, folder, world_size=1)[0]
    assert resumed["steps"] == 0
    for name, weight in straight["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)


def test_what_cannot_be_continued_is_refused_in_one_line(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = str(tmp_path / "saved")
    dense, deep = spec_of(models["dense"], {}), spec_of(models["deep"], {})
    pool.run(scenarios.train_and_save_halfway, dense, iterations_of(dense)[:1], folder, world_size=1)
    with pytest.raises(RankFailed, match=r"UserError: .*/saved: holds a different model: num_hidden_layers is 2 there"):
        pool.run(scenarios.resume, deep, [], folder, world_size=1)
    with pytest.raises(RankFailed, match=r"UserError: .*/nothing is not a trainer checkpoint"):
        pool.run(scenarios.resume, dense, [], str(tmp_path / "nothing"), world_size=1)


def test_layers_with_a_state_of_their_own_read_what_others_wrote_and_write_what_others_read(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folders = spec_of(models["dense"], {}), [str(tmp_path / name) for name in ("without", "with")]
    ((would_save, *saved),) = pool.run(checkpoint_scenarios.with_layers_of_two_kinds, spec, folders, world_size=1)
    assert would_save
    assert saved == [[], []]
