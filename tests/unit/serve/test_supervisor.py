"""The supervisor, on the real router (it starts in a fifth of a second; engines are in tests/e2e/serve)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.platform.ports import free_port
from rlscale.serve.addresses import url_of
from rlscale.serve.guard import KILL_DEADLINE_S
from rlscale.serve.http import CallError, call
from rlscale.serve.pulse import stopped_of
from rlscale.serve.router import RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor, _Entry

KEY = "unit-test-key-5d1c"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "logs", tmp_path / "scratch", KEY)
    yield supervisor
    supervisor.stop()


def test_an_address_of_all_interfaces_is_not_what_others_call() -> None:
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert "0.0.0.0" not in url_of("0.0.0.0", 80)


def test_a_port_taken_between_choice_and_start_is_replaced(tmp_path: Path, taken: int) -> None:
    choices = iter([taken])
    supervisor = Supervisor(
        tmp_path / "logs", tmp_path / "scratch", KEY, pick_port=lambda host, old: next(choices, None) or free_port(host)
    )
    try:
        url = supervisor.start_router()
        assert not url.endswith(f":{taken}")
        assert RouterClient(url, KEY).workers() == {}
        assert "in use" in (tmp_path / "logs" / "router.log").read_text().lower()
    finally:
        supervisor.stop()


def test_the_router_wants_the_key_and_shows_it_nowhere(supervisor: Supervisor, tmp_path: Path) -> None:
    url = supervisor.start_router()
    with pytest.raises(CallError, match="status 401"):
        call(url, "/workers", None, timeout=5)
    with pytest.raises(CallError, match="status 401"):
        call(url, "/generate", "wrong", {"input_ids": [1]}, timeout=5)
    assert KEY not in (tmp_path / "logs" / "router.log").read_text()


def test_a_dead_server_is_noticed_and_restarted_on_its_port(supervisor: Supervisor) -> None:
    url = supervisor.start_router()
    assert supervisor.dead() == []
    process = supervisor._entries["router"].process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while supervisor.dead() == [] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert supervisor.dead() == ["router"]
    assert supervisor.restart("router") == url
    assert supervisor.dead() == []
    assert "router_main.py" in supervisor.stacks()["router"]


def test_a_frozen_server_is_noticed_by_its_silence_and_replaced(supervisor: Supervisor) -> None:
    url = supervisor.start_router()
    process = supervisor._entries["router"].process
    assert process is not None
    assert process.pid is not None
    assert supervisor.down(0.5) == {}
    os.kill(process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while not (down := supervisor.down(0.5)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [*down] == ["router"]
    assert re.fullmatch(r"did not answer for \d+ s", down["router"])
    assert supervisor.dead() == []
    assert supervisor.restart("router") == url
    assert supervisor.down(0.5) == {}
    assert call(url, "/liveness", None, timeout=5) is not None


SLEEPS, COMPUTES = "import time; time.sleep(60)", "while True: pass"


@pytest.mark.parametrize(
    ("code", "stopped", "loading", "silence", "is_down"),
    [
        (SLEEPS, False, False, 30.0, True),
        (SLEEPS, False, False, 19.0, False),
        (SLEEPS, False, True, 30.0, False),  # weights may wait for the network
        (SLEEPS, True, True, 30.0, True),
        (COMPUTES, False, False, 30.0, False),  # a step may be long
        (COMPUTES, False, False, 200.0, True),
        (COMPUTES, True, False, 30.0, True),
    ],
)
def test_a_silent_server_is_down_if_it_was_stopped_or_does_nothing(
    supervisor: Supervisor, code: str, stopped: bool, loading: bool, silence: float, is_down: bool
) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) as server:
        try:
            if stopped:
                server.send_signal(signal.SIGSTOP)
            fake: Any = SimpleNamespace(pid=server.pid, exit_code=lambda: None, stop=lambda: None)
            pulse: Any = SimpleNamespace(silence=lambda: silence)
            entry = _Entry(lambda port: fake, lambda url: True, "127.0.0.1", 1.0, None, fake, True, pulse)
            supervisor._entries["engine-0"] = entry
            supervisor.down(20.0, loading)
            time.sleep(1.1)
            assert bool(supervisor.down(20.0, loading)) == is_down
            assert bool(supervisor.down(20.0, loading)) == is_down  # at once, as a restart asks again
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("silence", "idle", "longest", "is_down"),
    [
        (20.0, 0.0, 2.0, True),  # a step that takes ten times as long as any before
        (21.0, 21.0, 2.0, True),
        (21.0, 21.0, 7.0, False),  # its steps are long
        (28.0, 28.0, 7.0, True),
        (200.0, 200.0, 90.0, True),  # but not for ever
        (5.0, 5.0, 0.0, False),
    ],
)
@pytest.mark.parametrize("exempt", ["", "new", "doubted", "starves", "compiles", "loading"])
def test_an_engine_that_computes_and_makes_no_pass_is_down_once_it_takes_longer_than_its_steps_did(
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    silence: float,
    idle: float,
    longest: float,
    is_down: bool,
    exempt: str,
) -> None:
    monkeypatch.setattr("rlscale.serve.supervisor.stopped_of", lambda pids: [])
    monkeypatch.setattr("rlscale.serve.supervisor.compiles", lambda pids: exempt == "compiles")
    process: Any = SimpleNamespace(pid=None, exit_code=lambda: None, stop=lambda: None)
    entry = _Entry(lambda port: process, lambda url: True, "127.0.0.1", 1.0, None, process)
    entry.pulse = cast(Any, SimpleNamespace(silence=lambda: silence))
    entry.standstill = cast(
        Any, SimpleNamespace(seconds=lambda: silence, without_a_pass=lambda: idle, worked=exempt != "new")
    )
    entry.activity = cast(Any, SimpleNamespace(is_idle=lambda pids: False, starves=exempt == "starves"))
    entry.spells.longest, entry.doubted = longest, exempt == "doubted"
    supervisor._entries["engine-0"] = entry
    expected = is_down and (not exempt or (silence >= 200.0 and exempt != "loading"))
    assert bool(supervisor.down(20.0, exempt == "loading")) == expected
    assert entry.computed == (is_down and not exempt and silence < 200.0)


@pytest.mark.parametrize(
    ("silence", "longest", "starves", "is_down"),
    [(20.0, 0.0, False, True), (30.0, 10.0, False, False), (40.0, 10.0, False, True), (40.0, 0.0, True, False)],
)
def test_a_router_that_computes_and_answers_nobody_is_down_once_it_takes_longer_than_ever_before(
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    silence: float,
    longest: float,
    starves: bool,
    is_down: bool,
) -> None:
    """It has no passes that it could have been seen to make."""
    supervisor.start_router()
    monkeypatch.setattr("rlscale.serve.supervisor.stopped_of", lambda pids: [])
    entry = supervisor._entries["router"]
    entry.pulse = cast(Any, SimpleNamespace(silence=lambda: silence))
    entry.activity = cast(Any, SimpleNamespace(is_idle=lambda pids: False, starves=starves))
    entry.spells.longest = longest
    assert bool(supervisor.down(20.0)) == is_down


def test_an_engine_that_makes_passes_is_left_alone_however_long_no_token_comes(supervisor: Supervisor) -> None:
    """It reads the prompts of a large batch, and its processes wait for the device."""
    process: Any = SimpleNamespace(pid=None, exit_code=lambda: None, stop=lambda: None)
    entry = _Entry(lambda port: process, lambda url: True, "127.0.0.1", 1.0, None, process)
    entry.pulse = cast(Any, SimpleNamespace(silence=lambda: 1.0))
    entry.standstill = cast(Any, SimpleNamespace(seconds=lambda: 900.0, without_a_pass=lambda: 0.0, worked=True))
    entry.activity = cast(Any, SimpleNamespace(is_idle=lambda pids: True, starves=False))
    supervisor._entries["engine-0"] = entry
    assert supervisor.down(20.0) == {}


def test_an_engine_that_was_replaced_although_it_computed_has_longer_the_next_time(supervisor: Supervisor) -> None:
    supervisor.start_router()
    entry = supervisor._entries["router"]
    entry.computed = True
    entry.spells.heed(30.0)
    entry.spells.heed(0.0)
    assert entry.spells.longest == 30.0
    supervisor.restart("router")
    assert entry.doubted
    assert entry.spells.longest == 0.0  # of another process


def test_an_engine_that_answers_and_gives_no_tokens_is_down(supervisor: Supervisor) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPS]) as server:
        try:
            server.send_signal(signal.SIGSTOP)
            fake: Any = SimpleNamespace(pid=server.pid, exit_code=lambda: None, stop=lambda: None)
            pulse: Any = SimpleNamespace(silence=lambda: 1.0)
            still: Any = SimpleNamespace(seconds=lambda: 21.0, without_a_pass=lambda: 21.0, worked=False)
            entry = _Entry(
                lambda port: fake, lambda url: True, "127.0.0.1", 1.0, None, fake, pulse=pulse, standstill=still
            )
            supervisor._entries["engine-0"] = entry
            while not stopped_of([server.pid]):
                time.sleep(0.01)
            assert supervisor.down(20.0) == {"engine-0": "gave none of its requests a token for 21 s"}
        finally:
            server.kill()


def test_a_server_that_is_stopped_and_ended_is_gone_at_once_and_is_to_be_restarted(supervisor: Supervisor) -> None:
    url = supervisor.start_router()
    pid = supervisor._entries["router"].pid
    os.kill(pid, signal.SIGSTOP)
    supervisor.end("router")
    supervisor.end("engine-9")  # there is none
    assert not psutil.pid_exists(pid)
    assert supervisor.down(20.0) == {"router": "died"}
    assert supervisor.restart("router") == url


def test_a_server_that_is_forgotten_ends_and_is_missed_by_nobody(supervisor: Supervisor) -> None:
    url = supervisor.start_router()
    supervisor.forget("router")
    supervisor.forget("router")  # it is gone already
    assert supervisor.down(20.0) == {}
    with pytest.raises(CallError):
        call(url, "/liveness", None, timeout=1)


def test_stop_takes_well_under_the_time_that_a_run_has_and_is_final(supervisor: Supervisor) -> None:
    url = supervisor.start_router()
    started = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - started < KILL_DEADLINE_S
    with pytest.raises(CallError):
        call(url, "/liveness", None, timeout=1)
    with pytest.raises(UserError, match="ending"):
        supervisor.start_router()


def test_a_server_that_dies_at_start_is_one_line_with_what_it_raised(supervisor: Supervisor) -> None:
    with pytest.raises(
        UserError, match=r"^router did not start: TypeError: .*no_such_option.* Its whole output is in .*router\.log$"
    ):
        supervisor.start_router({"no_such_option": 1})
    with pytest.raises(UserError, match=r"^rollout\.router\.policy=power_of_two: .* use manual, which sends each"):
        supervisor.start_router({"policy": "power_of_two"})
    assert supervisor._entries == {}


def test_a_server_that_is_not_healthy_in_time_is_ended(supervisor: Supervisor) -> None:
    with pytest.raises(UserError, match=r"was not healthy within 0\.01 s"):
        supervisor.start_router(timeout_s=0.01)
    assert supervisor._entries == {}


def test_an_engine_without_a_model_is_refused_before_anything_starts(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        supervisor.start_engine(ServerSpec("engine-0", str(tmp_path / "nothing"), Device.cpu))
    assert not (tmp_path / "logs").exists()


def test_a_worker_that_does_not_answer_is_reported(supervisor: Supervisor, taken: int) -> None:
    client = RouterClient(supervisor.start_router(), KEY, timeout=1.0)
    with pytest.raises(CallError, match="did not become a worker"):
        client.add(f"http://127.0.0.1:{taken}")
    client.remove("http://127.0.0.1:9")  # never a worker: nothing to do
    told = client.url, f"http://127.0.0.1:{taken}"
    started = time.monotonic()
    supervisor.add_worker(*told, Role.regular)  # which waits for no engine
    assert time.monotonic() - started < 1.0
    assert not supervisor.worker_is_healthy(*told)
    assert not supervisor.remove_worker(client.url, "http://127.0.0.1:9")


def test_who_starts_engines_does_not_import_torch() -> None:
    slow = {"torch", "sglang", "transformers"}
    code = f"import sys, rlscale.serve.supervisor; sys.exit(bool({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
