"""Processes of a run that a signal has stopped."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from rlscale.run.processes import actor_processes, stacks_of_actors, watched
from rlscale.run.processes.actor_processes import Processes, stopped_of

HERE, THERE = "this machine", "another"
LOG = Path("rank-1.log")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    with subprocess.Popen(["sleep", "60"]) as waiting:
        yield waiting
        waiting.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not stopped_of([process.pid]) and time.monotonic() < deadline:
        time.sleep(0.01)


SILENT = "no answer"


class Unanswered:
    """Stands for a reference of Ray's to a call that is not back; whose it is it knows."""

    def __init__(self, actor: str) -> None:
        self._actor = actor

    def task_id(self) -> Any:
        return SimpleNamespace(actor_id=lambda: SimpleNamespace(hex=lambda: self._actor))


class Answers:
    """Stands for Ray: what a call brings is there at once, or never (SILENT, and what is Unanswered)."""

    ObjectRef = Unanswered
    killed: list[Any]
    waited_s: float

    def __init__(self) -> None:
        self.killed, self.waited_s = [], 0.0

    def wait(self, refs: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        late = [ref for ref in refs if ref is SILENT or isinstance(ref, Unanswered)]
        there = [ref for ref in refs if ref not in late]
        if len(there) < num_returns:
            self.waited_s += timeout
        return there, late

    def get(self, ref: Any) -> Any:
        return ref

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=function))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    for module in (actor_processes, stacks_of_actors, watched):
        monkeypatch.setattr(module, "ray", made)
    monkeypatch.setattr(watched, "NodeAffinitySchedulingStrategy", lambda node, soft: None)
    return made


def actor(identity: str, node: str, pid: int, servers: dict[str, str] | str | None = None) -> Any:
    """`servers`: the stacks that it tells of those that it supervises."""
    stacks = SimpleNamespace(remote=lambda: servers)
    return SimpleNamespace(whereabouts=SimpleNamespace(remote=lambda: (identity, node, pid)), stacks=stacks)


def test_only_a_stopped_process_counts(process: subprocess.Popen[bytes]) -> None:
    assert stopped_of([process.pid, 2**22 + 1]) == []
    stop(process)
    assert stopped_of([process.pid]) == [process.pid]
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 10
    while stopped_of([process.pid]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stopped_of([process.pid]) == []


@pytest.mark.parametrize("node", [HERE, THERE])
def test_an_actor_is_frozen_once_it_was_stopped_for_so_long_and_somebody_waits_for_it(
    process: subprocess.Popen[bytes], answers: Answers, node: str
) -> None:
    now = [0.0]
    processes = Processes(HERE, lambda: now[0])
    processes.add("rank 1", LOG, actor("a1", node, process.pid))
    processes.add("rank 2", LOG, actor("a2", node, 2**22 + 1))

    def look(seconds: float) -> Any:
        found = None
        for _ in range(10):  # another machine is asked every other second, and its answer taken later
            now[0] += 1.0
            found = processes.frozen({"a1", "a2"}, seconds)
        return found

    assert look(2.0) is None
    stop(process)
    found = look(2.0)
    assert str(found).startswith(f"rank 1 (process {process.pid}) has been stopped for")
    assert processes.frozen({"a2"}, 2.0) is None
    assert look(1000.0) is None


def test_one_that_is_stopped_before_it_can_answer_is_known_by_its_log_or_as_rays_own(
    answers: Answers, tmp_path: Path
) -> None:
    now, rays_own = [0.0], set[int]()
    processes = Processes(HERE, lambda: now[0], lambda _: rays_own)
    with contextlib.ExitStack() as ended:

        def started(log: Path) -> subprocess.Popen[bytes]:
            with open(log, "w") as output:
                process = ended.enter_context(subprocess.Popen(["sleep", "60"], stdout=output))
            ended.callback(process.kill)
            return process

        logs = [tmp_path / name for name in ("rank-0.log", "rank-1.log", "another-run.log")]
        first, second, other = map(started, logs)
        handles = [
            SimpleNamespace(whereabouts=SimpleNamespace(remote=lambda name=name: Unanswered(name)))
            for name in ("a0", "a1")
        ]
        for number, handle in enumerate(handles):
            processes.add(f"rank {number}", logs[number], handle)

        def found(*waiting_for: str) -> str:
            for _ in range(5):
                now[0] += 1.0
                found = processes.frozen({*waiting_for}, 2.0)
            return str(found)

        stop(other)
        assert found("a0", "a1") == "None"
        stop(second)
        assert found("a0") == "None"
        assert found("a0", "a1").startswith(f"rank 1 (process {second.pid}) has been stopped for")
        rays_own.add(other.pid)  # what Ray has started may be any of them, as long as it has not opened a log
        assert found("a0").startswith(f"rank 0 (process {other.pid}) has been stopped for")
        processes.end_frozen([])
        assert (second.poll(), other.poll()) == (None, None)
        processes.end_frozen([handles[1]])
        assert second.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        processes.end_frozen()
        assert other.wait(10) == -signal.SIGKILL
        assert found("a0", "a1") == "None"
        assert first.poll() is None


def test_what_descends_from_ray_is_found_but_for_actors_and_their_servers_and_other_jobs() -> None:
    script = "RAY_JOB_ID=02 sleep 60 & (sleep 60 & exec sleep 60) & RAY_JOB_ID=01 sleep 60 & wait"
    with subprocess.Popen(["bash", "-c", script]) as ray:
        until = time.monotonic() + 10
        while len(family := psutil.Process(ray.pid).children(recursive=True)) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        jobs = {one.pid: one.environ().get("RAY_JOB_ID", "") for one in family}
        (server,) = (one for one in family if one.ppid() != ray.pid)
        ours = {pid for pid, job in jobs.items() if job != "02"}
        assert watched.below(ray.pid, (), "01") == ours
        assert watched.below(ray.pid, [server.ppid()], "01") == ours - {server.pid, server.ppid()}
        for one in family:
            one.kill()


def test_processes_that_were_ended_are_gone_when_they_are_forgotten_and_leave_their_names(answers: Answers) -> None:
    processes = Processes(HERE)
    with subprocess.Popen(["sleep", "60"]) as ended:
        handle = actor("a1", HERE, ended.pid)
        processes.add("rank 1", LOG, handle)
        ended.kill()
        threading.Timer(0.2, ended.wait).start()  # as whoever started it would
        processes.forget([handle], wait_s=20.0)
        assert not psutil.pid_exists(ended.pid)
    processes.add("rank 1", LOG, actor("a2", HERE, 2**22 + 1))
    assert [one.name for one in processes._starting] == ["rank 1"]


HANGS = """
import threading
from rlscale.platform.stacks import tell_stacks
tell_stacks()
def waiting_for_a_peer():
    print("ready", flush=True)
    threading.Lock().acquire() and threading.Event().wait()
waiting_for_a_peer()
"""


SCHEDULER = """Process 7: sglang::scheduler
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (active): "MainThread"
    all_reduce (torch/distributed.py:12)
    Scheduler.run_batch (scheduler.py:30)
"""


def test_what_a_process_does_that_hangs_is_written_down(answers: Answers, tmp_path: Path) -> None:
    log = tmp_path / "rank-1.log"
    with log.open("w") as output, subprocess.Popen([sys.executable, "-c", HANGS], stdout=output, stderr=output) as hung:
        try:
            deadline = time.monotonic() + 20
            while "ready" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            processes = Processes(HERE)
            processes.add("rank 1", log, actor("a1", HERE, hung.pid))
            titles = ("engine-0 sglang::scheduler", "engine-0 /usr/bin/python")
            launcher = actor("a2", THERE, 2**22 + 1, dict.fromkeys(titles, SCHEDULER))
            processes.add("eval: the launcher of machine 1", tmp_path / "none", launcher, servers=True)
            told = processes.write_stacks(tmp_path / "hang")
            assert hung.poll() is None
        finally:
            hung.kill()
    assert told == {
        "rank 1": "waiting_for_a_peer (<string>:7)",
        "eval: engine-0 sglang::scheduler": "all_reduce (distributed.py:12)",
        "eval: engine-0 /usr/bin/python": "all_reduce (distributed.py:12)",
    }
    assert "in waiting_for_a_peer" in (tmp_path / "hang" / "rank-1.txt").read_text()
    for file in ("eval-engine-0-sglangscheduler.txt", "eval-engine-0-usr-bin-python.txt"):
        assert (tmp_path / "hang" / file).read_text() == SCHEDULER


@pytest.fixture
def spying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process can be read, and one that no actor is descends from each."""

    def families(pids: list[int], but: list[int], alone: list[int]) -> dict[int, dict[int, str]]:
        assert {*pids, *alone} <= {*but}
        return {pid: {pid: SCHEDULER} | ({} if pid in alone else {-pid: SCHEDULER}) for pid in pids}

    monkeypatch.setattr(stacks_of_actors, "spied_families", families)


@pytest.mark.parametrize("node", [HERE, THERE])
def test_below_a_launcher_is_read_only_where_it_does_not_tell_and_the_silent_are_waited_for_together(
    node: str, answers: Answers, spying: None, tmp_path: Path
) -> None:
    processes = Processes(HERE)
    for number, told in enumerate([{"engine-0": SCHEDULER}, SILENT, SILENT, SILENT], 1):
        launcher = actor(f"a{number}", node, 2**22 + number, told)
        processes.add(f"launcher {number}", tmp_path / "none", launcher, servers=True)
    processes.add("rank 1", tmp_path / "none", actor("a5", HERE, 2**22 + 5))
    told = processes.write_stacks(tmp_path / "hang")
    below = [f"process {-(2**22 + number)} of launcher {number}" for number in (2, 3, 4)]
    mine = [f"process {-(2**22 + 5)} of rank 1", "rank 1", *(f"launcher {number}" for number in (1, 2, 3, 4))]
    assert sorted(told) == sorted([*mine, *below, "engine-0"])
    assert answers.waited_s == stacks_of_actors._ANSWER_S


def test_the_frozen_are_ended_and_ray_expects_it(process: subprocess.Popen[bytes], answers: Answers) -> None:
    processes = Processes(HERE)
    mine = actor("a1", HERE, process.pid)
    processes.add("rank 1", LOG, mine)
    processes.end_frozen()
    assert process.poll() is None
    stop(process)
    processes.end_frozen()
    assert process.wait(10) == -signal.SIGKILL
    assert answers.killed == [mine]
