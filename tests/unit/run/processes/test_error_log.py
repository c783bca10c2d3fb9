"""What nobody expected is written down whole, and the message names the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from rlscale import cli
from rlscale.config.errors import UserError
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.lifecycle import _told
from rlscale.run.processes.actor_host import RayActors
from rlscale.run.processes.error_log import ErrorLog, ErrorLogHandler
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal


def remote_error(cause: Exception) -> RayTaskError:
    """An error as Ray brings it from another process."""
    try:
        raise cause
    except Exception as raised:
        return RayTaskError(
            "train", "Traceback (most recent call last):\n  my_loss.py, line 7\n" + repr(raised), raised
        )


class Results(RayActors):
    """Stands for Ray's store: references are results or errors that are there already."""

    def wait(self, refs: Sequence[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        return list(refs), []

    def get(self, ref: Any) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref


def wait(tmp_path: Path, *refs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        Calls(StopSignal(), 5.0, str(tmp_path / "logs"), 20.0, Results()).wait(refs, "training step")
    return caught.value


def test_errors_of_ranks_are_written_whole_and_the_message_names_the_file(tmp_path: Path) -> None:
    error = wait(tmp_path, remote_error(KeyError("x")), 1.0, remote_error(RuntimeError("peer is gone")))
    log = tmp_path / "logs" / "error.log"
    assert isinstance(error, RunFailed)
    assert str(error) == f"training step failed: KeyError: 'x'. See {log}"
    text = log.read_text()
    assert "\x1b" not in text  # Ray's colours
    assert "  my_loss.py, line 7\nKeyError('x')" in text
    assert "training step, rank 0\n" in text
    assert "training step, rank 2\n" in text
    assert text.count("====") == 2


def test_what_the_user_can_mend_is_not_written_there(tmp_path: Path) -> None:
    error = wait(tmp_path, remote_error(UserError("data: is empty")))
    assert str(error) == "data: is empty"
    assert not (tmp_path / "logs").exists()


def test_an_error_of_the_driver_is_one_line_and_its_traceback_a_file(tmp_path: Path) -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        told = _told(error, RunFolder(tmp_path))
    log = tmp_path / "logs" / "error.log"
    assert str(told) == f"the run failed: KeyError: 'x'. See {log}"
    assert "test_error_log.py" in log.read_text()


def test_what_a_process_logs_as_an_error_is_written_once_with_its_cause(tmp_path: Path) -> None:
    logger = logging.Logger("of this test")
    logger.addHandler(ErrorLogHandler(tmp_path, "rollout"))
    for _ in range(3):
        try:
            raise RuntimeError("the reward raised") from KeyError("x")
        except RuntimeError as error:
            logger.error("a reward failed: %s", error, exc_info=error)
    logger.warning("not an error")
    text = (tmp_path / "error.log").read_text()
    assert text.count("rollout: a reward failed: the reward raised") == 1
    assert "KeyError: 'x'" in text
    assert "Traceback" in text
    assert "not an error" not in text


def test_text_that_no_file_can_hold_is_escaped_and_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    assert ErrorLog(tmp_path).write("driver", "lone \udc80 surrogate")
    assert "\\udc80" in (tmp_path / "error.log").read_text()
    (tmp_path / "file").write_text("")
    assert not ErrorLog(tmp_path / "file").write("driver", "text")


def test_an_entry_is_not_written_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "error.log").symlink_to(tmp_path / "bashrc")
    assert not ErrorLog(tmp_path).write("driver", "text")
    assert not (tmp_path / "bashrc").exists()


def test_a_fault_before_any_run_is_one_line_and_its_traceback_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("by zero")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_dispatch", broken)
    assert cli.main(["optim.lr=1"]) == 1
    log = tmp_path / ".rlscale" / "error.log"
    line = f"error: ZeroDivisionError: by zero. This is a bug in rlscale; its traceback is in {log}\n"
    assert capsys.readouterr().err == line
    assert "Traceback" in log.read_text()
