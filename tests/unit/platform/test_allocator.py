"""What a rank's process is started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlscale.config.schema.cluster_config import Device
from rlscale.platform import allocator
from rlscale.platform.allocator import keep_allocator
from rlscale.platform.process_environment import rank_environment
from tests.unit.forked import printed_without

FAULTS = """
import resource
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(12_000_000)  # 48 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEPT = """
import gc, psutil
from rlscale.config.schema.cluster_config import Device
from rlscale.platform.device import Platform
platform = Platform.of(Device.cpu)
resident = lambda: psutil.Process().memory_info().rss
few = [torch.ones(1_000_000) for _ in range(50)]
few = few[-1:]  # the other 196 MB are free, but not at the end of the heap
print(resident())
platform.spare_host()
print(resident())
available = psutil.virtual_memory
psutil.virtual_memory = lambda: type("Memory", (), {"available": 24, "total": 100})
platform.spare_host()
print(resident())
psutil.virtual_memory = available
few = [torch.ones(1_000_000) for _ in range(50)][-1:]  # which a save took
platform.spare_host()
print(resident())
platform.settle_host()
print(resident())
"""

THREADS = """
import threading, psutil
resident = lambda: psutil.Process().memory_info().rss
end, freed = threading.Event(), threading.Semaphore(0)
def take():
    torch.ones(10_000_000)  # 40 MB
    freed.release()
    end.wait()
threads = [threading.Thread(target=take) for _ in range(12)]
for number, thread in enumerate(threads):
    thread.start()
    freed.acquire()
    if number in (1, 11):
        print(resident())
end.set()
"""

OWN = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_CONF")
TOLD = {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(autouse=True)
def _no_tunables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", params=["jemalloc", "glibc"])
def of_a_cpu_rank(request: pytest.FixtureRequest) -> list[int]:
    """The numbers that the pieces of code print, each in a fork of a process that has imported torch as a rank does."""
    fork = (
        "import ctypes, os, torch\n"
        f"assert hasattr(ctypes.CDLL(None), 'mallctl') == {request.param == 'jemalloc'}\n"
        f"for code in {[FAULTS, KEPT, THREADS]}:\n"
        "    os.fork() or (exec(code, dict(torch=torch)), os._exit(0))\n"
        "    os.wait()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in OWN:
            patch.delenv(name, raising=False)
        if request.param == "glibc":
            patch.setattr(allocator, "_rays_jemalloc", lambda: None)
        environment = {**os.environ, **rank_environment(Device.cpu, 1)}
    started = [sys.executable, "-u", "-c", fork]
    done = subprocess.run(started, env=environment, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_large_tensors_of_a_rank_on_the_cpu_cost_no_page_faults_once_there_were_some(of_a_cpu_rank: list[int]) -> None:
    # Told nothing, as a rank on a GPU, and nothing freed before that it could use.
    ordinary = int(printed_without((), f"import ctypes, torch\nctypes.CDLL(None).malloc_trim(0)\n{FAULTS}"))
    assert ordinary > 1000
    assert of_a_cpu_rank[0] * 10 < ordinary


def test_memory_that_a_rank_keeps_is_given_back_when_little_is_left_for_others(of_a_cpu_rank: list[int]) -> None:
    freed, plenty, scarce = of_a_cpu_rank[1:4]
    assert plenty == pytest.approx(freed, rel=0.05)
    assert scarce < freed - 150_000_000


def test_after_a_save_a_rank_lets_go_of_what_it_took_however_much_is_left(of_a_cpu_rank: list[int]) -> None:
    kept, settled = of_a_cpu_rank[4:6]
    assert settled < kept - 150_000_000


@pytest.mark.parametrize("of_a_cpu_rank", ["jemalloc"], indirect=True)  # glibc does not come to it
def test_what_one_thread_frees_the_next_one_has(of_a_cpu_rank: list[int]) -> None:
    second, twelfth = of_a_cpu_rank[6:]
    assert twelfth < second + 20_000_000, "half of what a thread takes"


def test_only_a_rank_on_the_cpu_is_told_how_to_allocate() -> None:
    assert rank_environment(Device.cuda, 4) == {"OMP_NUM_THREADS": "4"}


def test_a_rank_on_the_cpu_allocates_by_rays_jemalloc_and_is_told_glibcs_tunables_for_where_that_is_not() -> None:
    environment = rank_environment(Device.cpu, 4)
    assert Path(environment["LD_PRELOAD"]).name == "libjemalloc.so"
    assert Path(environment["LD_PRELOAD"]).exists()
    assert {"GLIBC_TUNABLES", "MALLOC_CONF"} < environment.keys()


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, set()),
        ({"LD_PRELOAD": "libtcmalloc.so"}, {"GLIBC_TUNABLES"}),
        ({"MALLOC_CONF": "narenas:1"}, {"GLIBC_TUNABLES", "LD_PRELOAD"}),
        ({"MALLOC_CONF": "narenas:1", "LD_PRELOAD": "libjemalloc.so.2"}, {"GLIBC_TUNABLES"}),
        ({"MALLOC_CONF": "narenas:1", "GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, set()),
    ],
)
def test_an_allocator_of_the_users_stays_and_reaches_ranks_of_a_ray_that_was_started_without_it(
    own: dict[str, str], others: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    environment = rank_environment(Device.cpu, 4)
    assert environment == {**environment, **TOLD, **own}
    assert environment.keys() == TOLD.keys() | own.keys() | others


def test_what_a_rank_starts_does_not_allocate_as_it_does_unless_the_user_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = rank_environment(Device.cpu, 4)
    for name, value in {**environment, "MALLOC_CONF": "narenas:1"}.items():
        monkeypatch.setenv(name, value)
    keep_allocator()
    assert {name: os.environ[name] for name in environment if name in os.environ} == {
        **TOLD,
        "MALLOC_CONF": "narenas:1",
    }
    monkeypatch.setenv("LD_PRELOAD", "/opt/another/venv/ray/core/libjemalloc.so")
    keep_allocator()
    assert "LD_PRELOAD" not in os.environ, "that of a driver on another machine"
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so")
    keep_allocator()
    assert os.environ["LD_PRELOAD"] == "/usr/lib/libjemalloc.so"
    for name in ("LD_PRELOAD", "MALLOC_CONF"):
        monkeypatch.delenv(name)
    assert rank_environment(Device.cpu, 4) == environment, "a rank that is started from such a process has it again"
