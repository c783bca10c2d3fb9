"""`weights checksum`, `weights compare` and `checkpoint compare` on folders and checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint

from rlscale.cli import main
from rlscale.platform.tensor_sum import TensorSum
from tests.unit.payload import Payload

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}


def folder(path: Path, **changed: torch.Tensor) -> str:
    """A folder with the tensors, some replaced or added."""
    path.mkdir()
    save_file(
        TENSORS | {name.replace("_", "."): tensor for name, tensor in changed.items()}, path / "model.safetensors"
    )
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """The exit code of a command line and what it wrote."""
    code = main(list(words))
    written = capsys.readouterr()
    return code, (written.out + written.err).splitlines()


def test_checksums_are_those_of_the_tensors_and_one_of_all_tells_folders_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = said(capsys, "weights", "checksum", folder(tmp_path / "one"))
    assert code == 0
    assert lines[:-1] == [f"{TensorSum.of(tensor)}  {name}" for name, tensor in TENSORS.items()]
    assert lines[0].startswith("float32 [2, 3] ")
    assert lines[-1].startswith("2 tensors, together ")
    assert said(capsys, "weights", "checksum", str(tmp_path / "one" / "model.safetensors"))[1] == lines
    other = said(capsys, "weights", "checksum", folder(tmp_path / "two", b_weight=torch.zeros(4)))[1]
    assert (other[0] == lines[0], other[-1] == lines[-1]) == (True, False)
    assert said(capsys, "weights", "checksum", str(tmp_path / "one"), "match=b.w")[1][0] == lines[1]


def test_tensors_that_differ_are_named_with_how_much_and_what_only_one_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder(tmp_path / "one", d_weight=torch.ones(2))
    moved = TENSORS["a.weight"].clone()
    moved[1, 1] += 0.5
    two = folder(tmp_path / "two", a_weight=moved, c_weight=torch.ones(1), d_weight=torch.ones(2).half())
    code, lines = said(capsys, "weights", "compare", one, two)
    assert code == 1
    assert lines == [
        f"A: {one}, 3 tensors",
        f"B: {two}, 4 tensors",
        "only in B: c.weight",
        "differ: a.weight: float32 [2, 3], 16.7% of the numbers, at most by 5.0e-01, 6.7e-02 of its norm",
        "differ: d.weight: float32 [2] and float16 [2]",
        "2 of 3 tensors that both have differ",
    ]
    code, lines = said(capsys, "weights", "compare", one, two, "show=1", "match=weight")
    assert (code, lines[-2:]) == (
        1,
        ["... and 1 more that differ (show=2)", "2 of 3 tensors that both have differ"],
    )
    code, lines = said(capsys, "weights", "compare", one, two, "match=b.")
    assert (code, lines[-1]) == (0, "all 1 tensors are the same, bit by bit")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_checkpoints_are_compared_whole_also_below_the_folder_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tensors in (("one", TENSORS), ("two", TENSORS | {"b.weight": torch.zeros(4, dtype=torch.bfloat16)})):
        checkpoint.save(dict(tensors), checkpoint_id=str(tmp_path / name / "trainer"), no_dist=True)
    code, lines = said(capsys, "checkpoint", "compare", str(tmp_path / "one"), str(tmp_path / "two" / "trainer"))
    assert code == 1
    assert lines[0] == f"A: {tmp_path}/one/trainer, 2 tensors"
    assert lines[2:] == [
        "differ: b.weight: bfloat16 [4], 100.0% of the numbers, at most by 1.0e+00, 1.0e+00 of its norm",
        "1 of 2 tensors that both have differ",
    ]
    assert said(capsys, "checkpoint", "compare", str(tmp_path / "one"), folder(tmp_path / "hf"))[0] == 0
    data = next((tmp_path / "two" / "trainer").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-40])
    code, lines = said(capsys, "checkpoint", "compare", str(tmp_path / "one"), str(tmp_path / "two"))
    assert (code, lines[-1].endswith("cannot be read; is the checkpoint whole?")) == (2, True), lines


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("weights", "error: weights : write weights checksum or compare"),
        ("weights look", "error: weights look: write weights checksum or compare"),
        ("checkpoint checksum x", "error: checkpoint checksum: write checkpoint compare or verify"),
        ("weights compare x", "error: weights compare takes two places, 1 given; see --help"),
        ("weights checksum x y", "error: weights checksum takes one place, 2 given; see --help"),
        ("weights checksum x shw=3", "error: shw: weights does not know it; see python -m rlscale weights --help"),
        ("weights compare x y show=all", "error: show=all: must be a whole number"),
        ("weights checksum sweep/lr=1e-5/hf", "error: sweep/lr=1e-5/hf: there is no such file or folder"),
        ("weights checksum nowhere", "error: nowhere: there is no such file or folder"),
        ("weights checksum .", "error: .: no weights (*.safetensors); name a Hugging Face folder, a checkpoint or a"),
        ("weights checksum http://127.0.0.1:1 key_file=none", "error: key_file=none: cannot be read (No such file or"),
        ("weights checksum http://127.0.0.1:1", "error: http://127.0.0.1:1/weights_checker: [Errno 111] Connection"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, lines = said(capsys, *words.split())
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(line)


@pytest.mark.parametrize("words", [["checkpoint", "compare"], ["weights", "compare"]])
def test_code_in_a_checkpoint_is_refused_by_the_name_of_its_file(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted, ran = tmp_path / "planted", tmp_path / "ran"
    planted.mkdir()
    (planted / ".metadata").write_bytes(pickle.dumps(Payload(ran)))
    code, lines = said(capsys, *words, str(planted), folder(tmp_path / "hf"))
    assert (code, len(lines), ran.exists()) == (2, 1, False)
    assert lines[0].startswith(f"error: {planted}/.metadata names code to be run (")
