"""`checkpoint verify`: a line for each checkpoint, and whether all are what was written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.run.disk.checkpoint import sealed
from rlscale.run.disk.run_folder import MARK
from rlscale.trainer.checksums import SUMS, checksum
from tests.unit.run.disk.test_checkpoint import save, saver
from tests.unit.run.disk.test_resume import refuse_to_read


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints."""
    (tmp_path / MARK).write_text("{}")
    for iteration in (1, 2):
        save(saver(tmp_path / "checkpoints"), iteration)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = main(["checkpoint", "verify", *words])
    captured = capsys.readouterr()
    return code, (captured.out + captured.err).splitlines()


def test_whole_checkpoints_of_a_run_or_one_alone_are_told_and_the_code_is_0(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = said(capsys, str(run))
    assert (code, len(lines)) == (0, 2)
    newest = run / "checkpoints" / "iteration_000002"
    size = sum((newest / name).stat().st_size for name in ("rollout.state", "trainer/weights.bin"))
    assert lines[1] == f"{newest}: whole, 2 files of {size:,} bytes"
    assert said(capsys, str(newest)) == (0, [lines[1]])
    (newest / "more").touch()
    assert said(capsys, str(newest))[1] == [f"{lines[1]}; beside them more, which no checksum is known of"]


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (
            lambda at: (at / "trainer/weights.bin").write_bytes(b"12340678"),
            "damaged: trainer/weights.bin is not what was written (its checksum differs, or it cannot be read)",
        ),
        (
            lambda at: (at / "trainer/weights.bin").write_bytes(b"1234"),
            "not whole: trainer/weights.bin has 4 bytes instead of 8",
        ),
        (lambda at: (at / "manifest.json").write_text("{"), "not whole: manifest.json cannot be read"),
    ],
)
def test_a_damaged_one_is_named_beside_the_whole_ones_and_the_code_is_1(
    run: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], object], fault: str
) -> None:
    harm(run / "checkpoints" / "iteration_000001")
    code, lines = said(capsys, str(run))
    assert (code, len(lines)) == (1, 2)
    assert fault in lines[0]
    assert "whole, 2 files" in lines[1]


def test_a_file_that_the_disk_does_not_give_back_is_told_as_damaged(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_read(run / "checkpoints" / "iteration_000001" / "trainer/weights.bin", monkeypatch)
    code, lines = said(capsys, str(run))
    assert (code, len(lines), "damaged: trainer/weights.bin" in lines[0]) == (1, 2, True)


def test_a_manifest_without_a_checksum_of_its_own_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = run / "checkpoints" / "iteration_000002"
    facts = json.loads((newest / "manifest.json").read_text())
    del facts["checksum"]
    (newest / "manifest.json").write_text(json.dumps(facts))
    code, (line,) = said(capsys, str(newest))
    assert (code, line.endswith("manifest.json has no checksum of its own (an older version wrote it)")) == (0, True)


def test_the_trainers_part_alone_has_its_own_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "__0_0.distcp"
    data.write_bytes(b"1234")
    (tmp_path / SUMS).write_text(json.dumps({data.name: checksum(data)}))
    assert said(capsys, str(tmp_path)) == (0, [f"{tmp_path}: whole, 1 file of 4 bytes"])
    data.write_bytes(b"1204")
    assert said(capsys, str(tmp_path))[0] == 1
    (tmp_path / SUMS).write_text("[]")
    assert said(capsys, str(tmp_path)) == (1, [f"{tmp_path}: {tmp_path / SUMS} is not a file that rlscale writes"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: checkpoint verify takes one folder, 0 given; see --help"),
        (["a", "b"], "error: checkpoint verify takes one folder, 2 given; see --help"),
        (["nowhere"], "error: nowhere: there is no such folder"),
        (["."], "error: .: neither a run nor a checkpoint (no manifest.json, no checksums.json)"),
    ],
)
def test_what_cannot_be_verified_is_one_line(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, *words) == (2, [line])


def test_a_run_without_a_checkpoint_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / MARK).write_text("{}")
    assert said(capsys, str(tmp_path)) == (2, [f"error: {tmp_path}: this run has no checkpoint yet"])


def named(checkpoint: Path, **entries: object) -> None:
    """Let the manifest name further files."""
    file = checkpoint / "manifest.json"
    facts = json.loads(file.read_text())
    del facts["checksum"]
    facts["files"] |= entries
    file.write_text(json.dumps(sealed(facts)))


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("pipe", None, "not a regular file"),
        ("/etc/hostname", None, "not the name of a file inside the folder"),
        ("../iteration_000002/rollout.state", None, "not the name of a file inside the folder"),
        ("link", "/etc/hostname", "a link that leads out of the folder"),
        ("link", "../../run.json", "a link that leads out of the folder"),
        ("trainer", None, "not a regular file"),
    ],
)
def test_a_manifest_names_no_file_outside_the_checkpoint_and_nothing_that_never_ends(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, target: str | None, reason: str
) -> None:
    checkpoint = run / "checkpoints" / "iteration_000001"
    if name == "pipe":
        os.mkfifo(checkpoint / name)
    if target is not None:
        (checkpoint / name).symlink_to(target)
    size = (checkpoint / name).stat().st_size
    named(checkpoint, **{name: {"size": size, "xxh3_128": "0" * 32}})
    code, lines = said(capsys, str(run))
    assert (code, lines[0]) == (1, f"{checkpoint}: not whole: {name} cannot be read ({reason})")
    # The same of the ranks' checksums, which a trainer's part alone is held to.
    (checkpoint / SUMS).write_text(json.dumps({name: "0" * 32}))
    (checkpoint / "manifest.json").unlink()
    code, lines = said(capsys, str(checkpoint))
    assert (code, lines) == (
        1,
        [f"{checkpoint}: damaged: {name} is not what was written (its checksum differs, or it cannot be read)"],
    )


@pytest.mark.parametrize("name", ["manifest.json", SUMS])
def test_a_manifest_that_is_a_pipe_or_leads_out_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    checkpoint = run / "checkpoints" / "iteration_000001"
    (checkpoint / "manifest.json").unlink()
    os.mkfifo(checkpoint / name)
    code, lines = said(capsys, str(run))
    assert (code, len(lines)) == (1, 2)
    assert lines[0].startswith(f"{checkpoint}: not whole: ")


def test_checkpoints_that_were_moved_to_another_disk_by_a_link_are_read(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = said(capsys, str(run))
    disk = tmp_path_factory.mktemp("disk")
    (run / "checkpoints" / "iteration_000001").rename(disk / "one")
    (run / "checkpoints" / "iteration_000001").symlink_to(disk / "one")
    assert said(capsys, str(run)) == whole
    (run / "checkpoints").rename(disk / "checkpoints")
    (run / "checkpoints").symlink_to(disk / "checkpoints")
    assert said(capsys, str(run)) == whole
