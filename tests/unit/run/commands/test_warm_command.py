"""`python -m rlscale warm`: what it refuses, the file that it leaves while it runs, and that nothing of it stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlscale.config.errors import UserError
from rlscale.run.commands.warm_command import warm
from rlscale.run.processes.forks import read_forks


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"warm does not know 'folder=x'"):
        warm(["folder=x"])


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"engine": "x"}'])
def test_a_file_of_something_else_is_refused(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "warm.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"cluster\.warm=.*is not the file of a running `python -m rlscale warm`"):
        read_forks(file)


def test_a_signal_ends_it_with_all_that_it_made(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "warm.json"
    command = [sys.executable, "-m", "rlscale", "warm", f"file={file}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"add cluster.warm={file} to runs on this machine; Ctrl-C ends this\n"
    forks = read_forks(file)
    assert forks.engines
    assert forks.workers
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4  # two fork servers and their guards
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert list(file.parent.iterdir()) == []
    deadline = time.monotonic() + 10
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
