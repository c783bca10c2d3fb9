"""The log of an actor that fails says why."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlscale.config.errors import UserError

FAILING = """
import asyncio, sys, types
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.run.processes.actors import RolloutActor
actor = RolloutActor(sys.argv[1])
try:
    asyncio.run(actor.prepare(types.SimpleNamespace(rollout=RolloutConfig(), served_models=())))
except AttributeError:
    pass
try:
    asyncio.run(actor.call("next_batch"))
except AttributeError:
    pass
"""


def test_the_rollouts_log_holds_the_traceback_of_what_ended_it(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rollout.log"
    subprocess.run([sys.executable, "-c", FAILING, str(log)], check=True, capture_output=True)
    text = log.read_text()
    assert text.count("Traceback (most recent call last)") == 2
    assert "rlscale/rollout/service.py" in text
    assert "AttributeError: 'types.SimpleNamespace' object has no attribute 'tokenizer_folder'" in text


def test_methods_give_and_raise_what_they_did_before(capsys: pytest.CaptureFixture[str]) -> None:
    from rlscale.run.processes.printed_errors import prints_errors

    @prints_errors
    class Actor:
        def double(self, number: int) -> int:
            return 2 * number

        def fail(self) -> None:
            raise KeyError("x")

    assert Actor().double(3) == 6
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyError):
        Actor().fail()
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_a_disk_that_is_full_under_the_log_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlscale.run.processes.printed_errors import prints_errors

    @prints_errors
    class Actor:
        def save(self) -> None:
            raise UserError("rank 0: no space left")

    full = open("/dev/full", "w")  # noqa: SIM115 -- closing it raises, as what was written never went anywhere
    with pytest.raises(OSError, match="No space left"):
        print("a line", file=full, flush=True)
    monkeypatch.setattr(sys, "stderr", full)
    with pytest.raises(UserError, match="rank 0: no space left"):
        Actor().save()
    monkeypatch.undo()
    with suppress(OSError):
        full.close()
