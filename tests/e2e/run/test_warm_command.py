"""A command with `cluster.warm` is itself forked: it prints and ends as the one that was typed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.e2e.run.command import Started, command, only_run, summary

TELLING = """
import os, sys
print("forked:", "rlscale.run.processes.worker_program" in sys.modules, os.environ.get("OWN"), flush=True)
"""


def test_its_output_its_errors_and_its_exit_code_come_back(
    warm: str, on_shared_engine: list[str], tmp_path: Path
) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    wrong = ["reward=custom", "reward.function._target_=telling.absent"]
    for overrides, forked in (([warm], True), ([], False)):
        done = subprocess.run(
            command(*overrides, *on_shared_engine, *wrong), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, f"forked: {forked} None\n"), done.stderr
        assert [line for line in done.stderr.splitlines() if "telling.absent" in line], done.stderr


def test_a_signal_ends_its_run_in_order(short: list[str], tmp_path: Path) -> None:
    with Started(tmp_path, *short, "run.iterations=1000") as started:
        started.wait_for("iteration 2")
        started.signal(signal.SIGTERM)
        assert started.process.wait(timeout=60) == 130, started.log.read_text()
    ended = summary(only_run(tmp_path))
    assert (ended["status"], ended["iterations"] >= 2) == ("stopped", True)
