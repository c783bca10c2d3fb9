"""The folder that is exported: files of a bounded size with an index, whole or not at all, a bucket at a time."""

from __future__ import annotations

import json
import os
import resource
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.data.folders.companions import Companions
from rlscale.families.weight_files import INDEX, SUMS
from rlscale.run.commands.verify_command import verify
from rlscale.trainer.megatron.disk import export
from rlscale.trainer.megatron.disk.adapter_folder import AdapterFolder, refuse_damaged
from rlscale.weights import safetensors_folder
from rlscale.weights.bucket import Bucket
from rlscale.weights.load import WeightFolder

WEIGHTS = {
    f"layer.{number}.weight": torch.randn(8, 16, generator=torch.Generator().manual_seed(number)) for number in range(5)
}
WEIGHTS["norm.weight"] = torch.ones(16, dtype=torch.bfloat16)


class Source:
    """Hands out its tensors two at a time."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._named = list(weights.items())
        self.left = len(self._named)

    def buckets(self, version: int) -> Iterator[Bucket]:
        for start in range(0, len(self._named), 2):
            named = self._named[start : start + 2]
            self.left -= len(named)
            yield Bucket(named, version)


class LargeSource:
    """Makes its tensors bucket by bucket, and looks at how many of the earlier ones are still there."""

    def __init__(self, buckets: int) -> None:
        self._number = buckets
        self._made: list[weakref.ref[Tensor]] = []
        self.kept: list[int] = []
        """Tensors of earlier buckets that somebody holds when the next is asked for, and at the end."""

    def buckets(self, version: int) -> Iterator[Bucket]:
        for number in range(self._number):
            self._look()
            yield self._make(number, version)
        self._look()

    def _make(self, number: int, version: int) -> Bucket:
        named = [(f"layer.{number}.{name}", torch.full((8, 16), float(number))) for name in ("up", "down")]
        self._made += [weakref.ref(tensor) for _, tensor in named]
        return Bucket(named, version)

    def _look(self) -> None:
        self.kept.append(sum(made() is not None for made in self._made))


@pytest.fixture(autouse=True)
def _one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder whose weights are not copied."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "old.safetensors").write_text("")
    return folder


@pytest.mark.parametrize(("at_most", "files"), [(1100, 3), (10**6, 1)])  # of five matrices of 512 bytes
def test_weights_are_spread_over_files_and_found_again(
    at_most: int, files: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_folder, "_FILE_BYTES", at_most)
    target = tmp_path / "out" / "hf"
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target, {"num_labels": 1})
    found = sorted(target.glob("*.safetensors"))
    assert len(found) == files
    assert (target / INDEX).exists() == (files > 1)
    for path in found:
        assert sum(tensor.nbytes for tensor in load_file(path).values()) <= at_most
    with WeightFolder(target) as folder:
        for name, tensor in WEIGHTS.items():
            assert torch.equal(folder.read(name), tensor)
    assert {path.name for path in target.iterdir()} - {path.name for path in found} - {INDEX} == {
        "config.json",
        "tokenizer.json",
        SUMS,
    }
    assert json.loads((target / "config.json").read_text()) == {
        "model_type": "qwen3",
        "dtype": "float32",  # of most bytes
        "num_labels": 1,
    }


def test_a_tensor_that_was_changed_on_disk_is_not_read_and_verify_names_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "run" / "hf"
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
    assert verify([str(target)]) == 0
    assert f"{target}: whole, {len(WEIGHTS)} tensors" in capsys.readouterr().out
    file = target / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    last = list(WEIGHTS)[-1]
    assert verify([str(target)]) == 1
    assert f"damaged: {last} is not what was written" in capsys.readouterr().out
    with WeightFolder(target) as folder:
        assert all(torch.equal(folder.read(name), WEIGHTS[name]) for name in WEIGHTS if name != last)
        with pytest.raises(UserError, match=rf"{last} is not what was written .* or remove its {SUMS}"):
            folder.read(last)
    (target / SUMS).write_text('{"a": 1}')
    with pytest.raises(UserError, match="is not a file that rlscale writes"):
        WeightFolder(target)
    assert verify([str(target)]) == 1
    (target / SUMS).unlink()
    with pytest.raises(UserError, match=f"a model's folder without checksums .no {SUMS}"):
        verify([str(target)])


def test_an_adapter_that_was_changed_on_disk_is_not_started_from_and_verify_names_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "hf"
    adapter = AdapterFolder(
        {"peft_type": "LORA"}, {name: WEIGHTS[name] for name in ("layer.0.weight", "layer.1.weight")}
    )
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target, adapter=adapter)
    assert verify([str(target)]) == 0
    assert f"{target / 'adapter'}: whole, 2 tensors" in capsys.readouterr().out
    refuse_damaged(target / "adapter")
    file = target / "adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert verify([str(target)]) == 1
    assert f"{target / 'adapter'}: damaged: layer.1.weight is not what was written" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"layer.1.weight is not what was written .* or remove its {SUMS}"):
        refuse_damaged(target / "adapter")
    (target / "adapter" / SUMS).unlink()
    refuse_damaged(target / "adapter")  # of another tool


def test_a_full_disk_is_an_error_that_leaves_what_was_there(model: Path, tmp_path: Path) -> None:
    target, source = tmp_path / "hf", Source(WEIGHTS)
    target.mkdir()
    (target / "of_before").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # no more than the space that is kept for the header
    try:
        with pytest.raises(OSError, match="File too large"):
            export.export_folder(source, Companions(str(model), str(model)), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert source.left == 0, "the other ranks would wait for this one"
    assert [path.name for path in target.iterdir()] == ["of_before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model"]


def kept_that_cannot_be_read() -> Iterator[tuple[str, Tensor]]:
    yield "mtp.norm.weight", torch.ones(16)
    raise UserError("mtp.proj.weight is not what was written")


def kept_of_a_type_without_a_name() -> Iterator[tuple[str, Tensor]]:
    yield "mtp.norm.weight", torch.ones(16)
    yield "mtp.proj.weight", torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (kept_that_cannot_be_read, r"mtp\.proj\.weight is not what was written"),
        (kept_of_a_type_without_a_name, r"mtp\.proj\.weight is of type int64, .* F32, BF16, F16"),
    ],
)
def test_a_kept_tensor_that_cannot_be_read_or_written_is_told_to_every_rank_and_nothing_is_left(
    kept: Callable[[], Iterator[tuple[str, Tensor]]],
    message: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    broadcast = dist.broadcast_object_list

    def telling(values: list[Any], src: int) -> None:
        told.extend(values)
        broadcast(values, src)

    monkeypatch.setattr(dist, "broadcast_object_list", telling)
    with pytest.raises(UserError, match=message):
        export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), tmp_path / "hf", kept=kept())
    assert [type(error) for error in told] == [UserError], "the other ranks would wait for this one"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("at_most", [1100, 10**6])
def test_no_bucket_is_held_when_the_next_one_is_made(
    at_most: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_folder, "_FILE_BYTES", at_most)
    source = LargeSource(buckets=6)
    export.export_folder(source, Companions(str(model), str(model)), tmp_path / "hf")
    assert source.kept == [0] * 7
    with WeightFolder(tmp_path / "hf") as folder:
        assert folder.read("layer.5.down").eq(5.0).all()


def test_a_rank_that_does_not_write_holds_no_bucket_either(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, src: None)
    source = LargeSource(buckets=3)
    export.export_folder(source, Companions(str(model), str(model)), tmp_path / "hf")
    assert source.kept == [0] * 4
    assert not (tmp_path / "hf").exists()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder of an earlier export."""
    folder = tmp_path / "out" / "hf"
    folder.mkdir(parents=True)
    (folder / "of_before").touch()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def watched(monkeypatch: pytest.MonkeyPatch, before: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Call `before` with the name and the arguments of every renaming, removal and forcing to disk that follows."""
    for module, name in ((os, "replace"), (export.shutil, "rmtree"), (os, "fsync")):
        call = getattr(module, name)

        def watching(*args: Any, _call: Any = call, _name: str = name, **options: Any) -> Any:
            before(_name, args)
            return _call(*args, **options)

        monkeypatch.setattr(module, name, watching)


def test_the_old_folder_or_the_new_one_is_there_at_every_moment(
    model: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = target.with_name("hf.replaced")
    seen = []

    def look(name: str, _: Any) -> None:
        seen.append(name)
        new = (target / "model.safetensors").exists() and (target / "config.json").exists()
        assert new or (target / "of_before").exists() or (replaced / "of_before").exists()

    watched(monkeypatch, look)
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
    assert seen.count("replace") == 3  # the first is refused, as the old folder is not empty
    assert "rmtree" in seen
    assert names(target.parent) == ["hf"]
    assert names(target) == ["config.json", "model.safetensors", "tokenizer.json", SUMS]


def test_everything_is_on_disk_before_it_gets_its_name_and_the_name_before_the_old_is_removed(
    model: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def note(name: str, args: tuple[Any, ...]) -> None:
        if name == "fsync":
            path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
            order.append(f"sync {'partial' if path.name.startswith('.hf-') else path.name}")
        else:
            order.append(f"{name} {Path(args[0]).name if not Path(args[0]).name.startswith('.hf-') else 'partial'}")

    watched(monkeypatch, note)
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
    begin = order.index("replace partial")
    assert sorted(order[: begin - 1]) == [
        f"sync {name}" for name in ("config.json", "model.safetensors", "tokenizer.json", SUMS)
    ]
    assert order[begin - 1 : begin + 4] == [
        "sync partial",
        "replace partial",
        "replace hf",
        "replace partial",
        "sync out",
    ]
    assert order[begin + 4] == "rmtree hf.replaced"


def test_a_new_folder_that_cannot_get_the_name_leaves_it_to_the_old_one(
    model: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "replace" and not target.exists() and Path(args[0]).name.startswith(".hf-"):
            raise OSError(5, "Input/output error")

    watched(monkeypatch, refuse)
    with pytest.raises(OSError, match="Input/output error"):
        export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
    assert names(target.parent) == ["hf"]
    assert names(target) == ["of_before"]


class _Killed(BaseException):
    """What nobody catches."""


def test_what_a_killed_export_has_set_aside_is_found_and_never_removed(
    model: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(name: str, _: Any) -> None:
        if name == "replace" and not target.exists():
            raise _Killed

    with monkeypatch.context() as patch:
        watched(patch, kill)
        with pytest.raises(_Killed):
            export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
    assert names(target.with_name("hf.replaced")) == ["of_before"]
    for _ in range(2):  # to a free name, and then in the place of that export
        export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), target)
        assert names(target) == ["config.json", "model.safetensors", "tokenizer.json", SUMS]
        assert names(target.with_name("hf.replaced")) == ["of_before"]
        assert not target.with_name("hf.replaced-2").exists()


def test_an_empty_folder_is_filled(model: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    export.export_folder(Source(WEIGHTS), Companions(str(model), str(model)), tmp_path / "hf")
    assert names(tmp_path) == ["hf", "model"]
    assert "model.safetensors" in names(tmp_path / "hf")
