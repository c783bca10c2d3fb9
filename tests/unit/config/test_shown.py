"""What terminals obey is shown to people, wherever it comes from."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rlscale
from rlscale.cli import main
from rlscale.config.shown import say, visible

RED = "\x1b[31m"
PACKAGE = Path(rlscale.__file__).parent
OF_THE_TERMINAL = ("cli.py", "config", "plan", "explain", "doctor", "observe", "dashboard", "run")
"""What runs where the user sees what is printed; other packages run in processes whose output is a log."""
NOT_SEEN = {"config/shown.py", "run/processes/actor.py"}


def test_no_command_prints_what_it_has_not_made_visible() -> None:
    files = [file for name in OF_THE_TERMINAL for file in sorted(PACKAGE.glob(f"{name}/**/*.py")) or [PACKAGE / name]]
    assert len(files) > 300
    found = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in files
        if str(file.relative_to(PACKAGE)) not in NOT_SEEN
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found, "use rlscale.config.shown.say"


def test_a_line_is_said_with_its_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{RED}\r\x9b\u202e\tb")
    assert capsys.readouterr().out == "a\\x1b[31m\\r\\x9b\\u202e\tb\n"
    assert visible("plain é 字") == "plain é 字"


@pytest.mark.parametrize("words", [[f"run.recipe={RED}x"], ["check", f"{RED}=1"], [f"recipe={RED}"], [f"--{RED}"]])
def test_an_error_shows_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert "\\x1b[31m" in said.err


def test_a_configuration_that_is_printed_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", f"data.system_prompt='{RED}x'"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[31mx" in out


def test_names_in_a_strangers_weights_show_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        tensors = {f"{RED}one\x07": np.full(2, value, np.float32)}
        save_file(tensors, tmp_path / name / "model.safetensors")
    assert main(["weights", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert main(["weights", "checksum", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.count("\\x1b[31mone") >= 2


def test_what_a_strangers_run_says_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"state": f"unfinished{RED}"}))
    (tmp_path / "engines").mkdir(0o700)
    told = {"url": f"http://127.0.0.1:1/{RED}", "state": "refused", "why": f"{RED}gone", "id": "1"}
    (tmp_path / "engines" / "x.told.json").write_text(json.dumps(told))
    main(["engines", "list", f"run.output={tmp_path}"])
    main(["doctor", "warm_start=null", f"run.output={tmp_path}"])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
