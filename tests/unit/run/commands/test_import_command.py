"""What `import` refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.errors import ConfigError, UserError
from rlscale.run.commands.convert_command import import_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "import needs to=FOLDER once"),
        (["to=a", "to=b"], "import needs to=FOLDER once"),
        (["to=full"], r"to=.*full exists and is not empty"),
        (["to=full/file"], r"to=.*full/file is a file"),
        (["to=/proc/foo/bar"], r"to=/proc/foo/bar cannot be written: No such file or directory; choose another folder"),
        (["to=/etc/hostname/x"], "to=/etc/hostname/x: /etc/hostname is a file; choose another folder"),
        (["to=new", "model.init=/nowhere"], r"model\.init=/nowhere: is neither a Hugging Face folder .* nor a checkpo"),
        (["to=new", "model.create.architecture.attention_bias=true"], "attention_bias=true is not supported for qwen3"),
        (
            ["to=new", "run.in_process=true"],
            "run.in_process=true: a model is converted by ranks in processes of their own",
        ),
        (["to=new", "--force"], "import does not know '--force'"),
        (["to=new", "model=no_such_model"], "model=no_such_model: no such option"),
        (["to=new", "parallel.tensr=2"], r"parallel\.tensr"),
        (["to=new", "parallel.tensor=3"], r"parallel\.tensor=3 does not divide the .* of tiny_qwen3; use 1"),
        (["to=new", "parallel.data=9"], r"= 9 trainer ranks, but cluster\.max_trainer_ranks=4; use parallel\.data=4"),
        (["to=new", "parallel.tensor=0"], r"parallel\.tensor=0: must be at least 1"),
        (["to=new", "model.path=nowhere/at_all", "model.create=null"], "nowhere/at_all"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises((UserError, ConfigError), match=message) as error:
        import_(arguments)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_help_is_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert import_(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m rlscale import ")
