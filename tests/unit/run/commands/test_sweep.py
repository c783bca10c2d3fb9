"""A sweep runs its processes one after the other, keeps the score, and ends them when it is ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.sweep_expansion import expand
from rlscale.run.commands import sweep
from rlscale.run.commands.sweep import Entry, plan

WRITE_SUMMARY = (
    "import json, pathlib, sys; folder = pathlib.Path(sys.argv[1]); folder.mkdir(); "
    "folder.joinpath('summary.json').write_text(json.dumps("
    "{'status': 'finished', 'eval_before': 0.25, 'eval_after': 0.5, 'wall_seconds': 61.0, 'more': 1}))"
)
UNTIL_TOLD = (
    "import pathlib, signal, sys, time\n"
    "def stop(number, frame):\n"
    "    pathlib.Path(sys.argv[1]).write_text('told')\n"
    "    sys.exit(130)\n"
    "signal.signal(signal.SIGTERM, stop)\n"
    "pathlib.Path(sys.argv[1]).write_text('ready')\n"
    "time.sleep(60)\n"
)


def test_outputs_are_numbered_under_the_given_folder() -> None:
    runs = expand(["run.seed=1,2", "run.output=/o ut"])
    folder, entries = plan([compose(None, run) for run in runs], runs, "arithmetic", debug=True)
    assert folder == Path("/o ut")
    assert [entry.output for entry in entries] == [Path("/o ut/0"), Path("/o ut/1")]
    assert [entry.overrides for entry in entries] == [["run.seed=1"], ["run.seed=2"]]
    assert entries[1].command[1:] == [
        "-m",
        "rlscale",
        "recipe=arithmetic",
        "--debug",
        "run.seed=2",
        "run.output='/o ut/1'",
    ]
    assert compose(None, entries[1].command[5:]).run.output == "/o ut/1"


def test_outputs_are_dated_and_numbered_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [arithmetic, _self_]\n")
    runs = expand(["run.seed=1,2"])
    folder, entries = plan([compose("mine.yaml", run) for run in runs], runs, "mine.yaml", debug=False)
    assert [entry.output.parent for entry in entries] == [tmp_path / "outputs" / "mine"] * 2
    assert [entry.output.name[-2:] for entry in entries] == ["-0", "-1"]
    assert folder.name == f"{entries[0].output.name[:-2]}-sweep"
    assert f"recipe={tmp_path}/mine.yaml" in entries[0].command


def test_runs_are_recorded_with_their_summaries_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = [
        Entry(["run.seed=1"], tmp_path / "0", [sys.executable, "-c", "import sys; sys.exit(3)"]),
        Entry(["run.seed=2"], tmp_path / "1", [sys.executable, "-c", WRITE_SUMMARY, str(tmp_path / "1")]),
    ]
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sweep, "plan", lambda *_, **__: (tmp_path, entries))
    assert sweep.run_sweep([], [], None, debug=False) == 1
    first, second = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert (first["status"], first["exit_code"], first["eval_after"]) == ("failed (exit code 3)", 3, None)
    assert (second["status"], second["eval_before"], second["eval_after"]) == ("finished", 0.25, 0.5)
    assert "more" not in second
    printed = capfd.readouterr().out
    for text in ("[2/2] run.seed=2", "0.500", "1:01", "failed (exit code 3)"):
        assert text in printed


def test_an_interrupt_is_passed_on_once_and_leaves_the_rest_out(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    entries = [
        Entry(["a"], tmp_path / "0", [sys.executable, "-c", UNTIL_TOLD, str(mark)]),
        Entry(["b"], tmp_path / "1", [sys.executable, "-c", "raise SystemExit(0)"]),
    ]

    def interrupt() -> None:
        while not mark.exists() or mark.read_text() != "ready":
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert sweep._run_all(entries, tmp_path) is True
    thread.join()
    assert mark.read_text() == "told"
    assert [entry.exit_code for entry in entries] == [130, None]
    assert entries[1].record()["status"] == "not started"
    assert signal.getsignal(signal.SIGINT) is before
