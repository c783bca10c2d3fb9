"""What this machine tells of itself is what it has."""

from __future__ import annotations

import os
import pickle
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from math import isnan
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.doctor.bandwidth import GLOO, exchange
from rlscale.doctor.container_memory import container_memory
from rlscale.doctor.gathering import folder, gather
from rlscale.doctor.lock import TORCH, locked
from rlscale.platform.ports import free_port

ROOT = Path(__file__).parents[3]


def test_a_machine_tells_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = compose(
        None, ["model=qwen3_30b", f"run.output={tmp_path}/deep/run", "model.init=nowhere", "warm_start=null"]
    )
    facts = gather(config, {"torch": "1", "no-such-package": "1"})
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.packages["torch"] is not None
    assert facts.packages["no-such-package"] is None
    assert facts.folders["run.output"].writable
    assert (facts.offline, facts.hub_cache.path) == (True, f"{tmp_path}/hub")
    assert facts.to_download == ("model.path=Qwen/Qwen3-30B-A3B",)
    assert "nowhere: is neither a Hugging Face folder" in facts.unreadable[0]
    assert facts.variables["HF_HUB_OFFLINE"] == "1"
    assert pickle.loads(pickle.dumps(facts)) == facts, "it travels between machines"


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    assert not gather(compose(None, ["cluster.host=192.0.2.1"]), {}).listening.can_bind


def test_a_folder_inside_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not folder(str(tmp_path / "file" / "inside")).writable
    assert folder(str(tmp_path / "a" / "b")).writable


def test_the_lock_is_read_whole_and_its_torch_is_what_make_installs() -> None:
    pins = locked()
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(pins) == 1 + sum("==" in line for line in lines)
    assert re.search(rf"^TORCH := {re.escape(TORCH)}$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_a_containers_bound_counts_where_the_host_has_more(tmp_path: Path) -> None:
    job = tmp_path / "job" / "step"
    job.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job/step\n")
    (job / "memory.max").write_text("max\n")
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 500\ninactive_file 150\n")):
        (tmp_path / "job" / f"memory.{name}").write_text(text)
    assert container_memory(tmp_path, tmp_path / "own") == [(1000.0, 450.0)]
    assert container_memory(tmp_path / "none", tmp_path / "none") == []


def test_gpus_whose_driver_does_not_tell_their_memory_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA GB10, [N/A], [N/A]'\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (gpu,) = gather(compose(None, []), {}).gpus
    assert (gpu.name, isnan(gpu.total_bytes)) == ("NVIDIA GB10", True)


def test_the_two_ends_meet_on_the_address_that_they_are_told_alone() -> None:
    port = free_port("127.0.0.2")
    with socket.create_server(("127.0.0.1", port)), ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda rank: exchange(rank, "127.0.0.2", port, GLOO), (0, 1)))


def test_two_ends_find_how_fast_data_gets_through() -> None:
    port = free_port("127.0.0.1")
    with ThreadPoolExecutor(2) as pool:
        rates = list(pool.map(lambda rank: exchange(rank, "127.0.0.1", port, GLOO), (0, 1)))
    assert all(1e7 < rate < 1e12 for rate in rates)


def test_an_end_without_its_other_says_so_in_time() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(RuntimeError):
            exchange(1, "127.0.0.1", nobody.getsockname()[1], GLOO, limit_s=0.5)
