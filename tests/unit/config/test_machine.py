"""Can this machine run it: GPUs, memory, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config import machine
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.config.machine import check_machine, count_gpus

FAMILIES = Path(__file__).parents[2] / "fixtures" / "families"
GPU = ["model=qwen3_0_6b", "cluster=node8"]
ROLES = ("prefill", "decode")


def lines(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check_machine(compose(None, overrides))
    return error.value.problems


@pytest.fixture(autouse=True)
def _no_gpu_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_counted_without_a_driver_library(tmp_path: Path) -> None:
    assert count_gpus(tmp_path) == 0
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert count_gpus(tmp_path) == 2
    for number in range(8):
        (tmp_path / "proc/driver/nvidia/gpus" / f"0000:{number}").mkdir(parents=True)
    assert count_gpus(tmp_path) == 8


@pytest.mark.parametrize(
    ("visible", "count"),
    [("2,3", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,4,1", 1), ("GPU-a, GPU-b,GPU-c", 3), ("0,1,2,3,4,5,6,7", 4)],
)
def test_hidden_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, count: int) -> None:
    for number in range(4):
        (tmp_path / "proc/driver/nvidia/gpus" / f"0000:{number}").mkdir(parents=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus(tmp_path) == count


def test_a_gpu_cluster_on_a_machine_without_gpus_says_what_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    (line,) = lines(*GPU)
    assert "this machine has no GPU; choose cluster=local_cpu, or give cluster.ray_address" in line


def test_fewer_gpus_than_asked_for_are_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 4)
    assert lines(*GPU) == ["cluster.gpus_per_node=8, but this machine has 4 GPUs; lower it"]
    monkeypatch.setattr(machine, "count_gpus", lambda: 8)
    assert check_machine(compose(None, GPU)) == []


def test_another_cluster_is_not_checked_from_here() -> None:
    (note,) = check_machine(compose(None, [*GPU, "cluster.ray_address=auto"]))
    assert note.startswith("cluster.ray_address=auto: GPUs, memory and files of that cluster are not checked")


def test_a_model_larger_than_the_memory_is_refused() -> None:
    (line,) = lines("model=qwen3_30b", "cluster.memory_gb=null", "parallel.data=4", "cluster.max_trainer_ranks=4")
    assert "4 copies in training and 1 on engines need about 2013 GB, but this machine has" in line


def test_a_critic_and_a_reference_need_memory_too() -> None:
    (line,) = lines("model=qwen3_30b", "cluster.memory_gb=null", "algo=ppo")
    assert "1 copies in training and 1 on engines need about 1098 GB" in line  # 30.5e9 x (16 + 16 + 2, and 2)
    found = lines("algo=ppo", "critic.model.init=/nowhere")
    assert found == [
        "critic.model.init=/nowhere: is neither a Hugging Face folder (config.json) nor a checkpoint (metadata.json)"
    ]


def test_models_beside_the_policy_need_memory_too(tmp_path: Path) -> None:
    large = {"num_hidden_layers": 64, "hidden_size": 16384, "intermediate_size": 65536, "head_dim": 128}
    config = json.loads((FAMILIES / "qwen3.json").read_text()) | large
    (tmp_path / "config.json").write_text(json.dumps(config))
    judge = [f"rollout.models.judge.path={tmp_path}", "rollout.models.judge.dtype=bfloat16"]
    (line,) = lines(*judge, "rollout.models.judge.engines=3", "cluster.memory_gb=null")
    assert "1 copies in training and 1 on engines, 3 of judge need about" in line
    with pytest.raises(ConfigError, match=r"parameters and judge need .* GB to train, but the CPU cluster allows"):
        check(compose(None, judge))


def test_what_hands_over_keys_and_values_is_installed_before_a_run() -> None:
    groups = [f"rollout.engine_groups.{role}.role={role}" for role in ROLES]
    for backend, module in (("mooncake_tcp", "mooncake"), ("nixl", "nixl")):
        (line,) = lines(*groups, f"rollout.sglang.disaggregation_transfer_backend={backend}")
        assert f"hand over keys and values with {module}, which is not installed" in line
        both = [f"rollout.engine_groups.{role}.sglang.disaggregation_transfer_backend={backend}" for role in ROLES]
        assert lines(*groups, *both, "rollout.sglang.disaggregation_transfer_backend=ascend") == [line]


def test_missing_files_are_named_by_their_key(tmp_path: Path) -> None:
    found = lines("data=jsonl", "data.path=/no/x.jsonl", "model.init=/no", "model.chat_template=/no.jinja")
    assert [line.split("=")[0] for line in found] == ["model.chat_template", "data.path", "model.init"]
    (tmp_path / "x.jsonl").touch()
    check_machine(compose(None, ["data=jsonl", f"data.path='{tmp_path}/x.jsonl@[1:2]'"]))


@pytest.mark.parametrize(("given", "within"), [("run", "hf"), ("run/checkpoints/iteration_000010", "trainer")])
def test_the_folder_that_holds_the_weights_to_start_from_is_suggested(tmp_path: Path, given: str, within: str) -> None:
    holds = tmp_path / given / within
    holds.mkdir(parents=True)
    (holds / ("config.json" if within == "hf" else "metadata.json")).touch()
    (line,) = lines(f"model.init={tmp_path / given}")
    assert line.endswith(f"; did you mean {holds}?")
    check_machine(compose(None, [f"model.init={holds}"]))


def test_more_work_than_cores_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    (note,) = check_machine(compose(None, ["parallel.data=2", "trainer.threads=2"]))
    assert note.startswith("2 trainer ranks of 2 threads and 1 engines share 2 cores")
