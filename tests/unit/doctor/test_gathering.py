"""What this machine tells of itself is what it has."""

from __future__ import annotations

import os
import pickle
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlscale.config.compose import compose
from rlscale.doctor.bandwidth import GLOO, exchange
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
