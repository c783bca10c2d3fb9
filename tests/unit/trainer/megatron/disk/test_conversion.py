"""A model from one form on disk to the other, on one rank: no tensor is held for longer than it takes to hand it on."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import DType, ModelConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.config.schema.trainer_config import EightBits, TrainerConfig
from rlscale.config.schema.weights_config import WeightsConfig
from rlscale.platform.ports import free_port
from rlscale.trainer.checksums import SUMS, checksum, read_sums
from rlscale.trainer.megatron.disk import checkpoint_writer, conversion
from rlscale.trainer.megatron.disk.code_in_checkpoint import refuse_code
from rlscale.trainer.megatron.disk.distributed_checkpoint import holds_checkpoint
from rlscale.trainer.trainer_spec import Form, TrainerSpec
from rlscale.weights.bucket import Bucket
from rlscale.weights.load import WeightFolder
from rlscale.weights.megatron_weights import MegatronWeights
from tests.unit.payload import Payload

LAYERS, HIDDEN, INNER, WORDS, HEADS, GROUPS, WIDTH = 6, 32, 64, 64, 4, 2, 16
_OF_LAYER = {
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HEADS * WIDTH, HIDDEN),
    "self_attn.k_proj": (GROUPS * WIDTH, HIDDEN),
    "self_attn.v_proj": (GROUPS * WIDTH, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * WIDTH),
    "self_attn.q_norm": (WIDTH,),
    "self_attn.k_norm": (WIDTH,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
SHAPES = {f"model.layers.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in _OF_LAYER.items()}
SHAPES |= {f"{name}.weight": (WORDS, HIDDEN) for name in ("model.embed_tokens", "lm_head")}
SHAPES["model.norm.weight"] = (HIDDEN,)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    config = {
        "model_type": "qwen3",
        "vocab_size": WORDS,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": WIDTH,
        "rms_norm_eps": 1e-6,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def convert(
    folder: Path,
    init: Path,
    target: Path,
    to: Form,
    dtype: DType = DType.float32,
    trainer: TrainerConfig | None = None,
) -> None:
    """Convert on one rank; every tensor is a bucket of its own."""
    spec = TrainerSpec(
        model=ModelConfig(name="tiny", dtype=dtype),
        model_path=str(folder),
        init_path=str(init),
        parallel=ParallelConfig(),
        optim=OptimConfig(),
        trainer=trainer or TrainerConfig(),
        algo=compose().algo,
        weights=WeightsConfig(bucket_mb=0),
        device=Device.cpu,
        temperature=1.0,
        total_steps=1,
        seed=0,
        data_parallel=1,
    )
    conversion.convert(spec, (0, 1, 0), ("127.0.0.1", free_port("127.0.0.1")), target, to)


class Watch:
    """Remembers tensors weakly, and the most that somebody held of those handed out before the latest."""

    def __init__(self) -> None:
        self._seen: list[weakref.ref[Tensor]] = []
        self.most = 0

    def look(self) -> None:
        """Count what is still held."""
        self.most = max(self.most, sum(seen() is not None for seen in self._seen))

    def add(self, tensor: Tensor) -> None:
        """One more that is handed out."""
        self._seen.append(weakref.ref(tensor))

    @property
    def number(self) -> int:
        """Tensors handed out."""
        return len(self._seen)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The tensors that are read from a Hugging Face folder."""
    watch, original = Watch(), WeightFolder.read

    def reading(self: WeightFolder, name: str) -> Tensor:
        watch.look()
        tensor = original(self, name)
        watch.add(tensor)
        return tensor

    monkeypatch.setattr(WeightFolder, "read", reading)
    return watch


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The tensors that the exporter is given."""
    watch, original = Watch(), MegatronWeights.buckets

    def buckets(self: MegatronWeights, version: int) -> Iterator[Bucket]:
        inner = original(self, version)
        while (bucket := next(inner, None)) is not None:
            assert len(bucket.named) == 1
            watch.add(bucket.named[0][1])
            yield bucket
            del bucket  # this frame's own reference
            watch.look()

    monkeypatch.setattr(MegatronWeights, "buckets", buckets)
    return watch


OF_A_PARAMETER = 3
"""Tensors that form one of Megatron's, at most: query, key and value."""


def test_an_export_reads_and_writes_tensor_by_tensor(model: Path, tmp_path: Path, read: Watch, sent: Watch) -> None:
    convert(model, model, tmp_path / "hf", Form.hugging_face)
    assert read.number == sent.number == len(SHAPES)
    # Those of the parameter that is filled and of the one before; what is formed from them is copied into the model.
    assert read.most <= 2 * OF_A_PARAMETER
    # The bucket that the generator has just handed out, and what is left of its parameter.
    assert sent.most <= 1 + OF_A_PARAMETER
    original, exported = load_file(model / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert original.keys() == exported.keys()
    assert all(torch.equal(original[name], exported[name]) for name in original)


def test_weights_that_were_trained_in_eight_bits_are_converted_on_the_cpu(model: Path, tmp_path: Path) -> None:
    convert(model, model, tmp_path / "hf", Form.hugging_face, DType.bfloat16, TrainerConfig(fp8=EightBits.blockwise))
    assert load_file(tmp_path / "hf" / "model.safetensors").keys() == SHAPES.keys()


def test_a_checkpoint_is_written_from_the_model_itself_and_read_into_it(
    model: Path, tmp_path: Path, read: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(tensor: Tensor) -> Tensor:
        raise AssertionError("the weights are copied before they are written")

    monkeypatch.setattr(checkpoint_writer, "host_copy", copied)
    convert(model, model, tmp_path / "checkpoint", Form.checkpoint)
    assert holds_checkpoint(tmp_path / "checkpoint")
    assert read.most <= 2 * OF_A_PARAMETER
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    convert(model, tmp_path / "checkpoint", tmp_path / "hf", Form.hugging_face)
    original, exported = load_file(model / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert all(torch.equal(original[name], exported[name]) for name in original)


@pytest.mark.parametrize(("said", "reason"), [((), "MemoryError"), (("no more",), "MemoryError: no more")])
def test_an_error_that_says_nothing_is_the_reason_why_a_checkpoint_was_not_written(
    said: tuple[str, ...], reason: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> str:
        raise MemoryError(*said)

    monkeypatch.setattr(checkpoint_writer, "checksum", refuse)
    with pytest.raises(UserError, match=rf"rank 0: {reason}$"):
        convert(model, model, tmp_path / "checkpoint", Form.checkpoint)


def test_a_checkpoint_is_not_written_where_a_link_beside_it_leads(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".checkpoint-partial").symlink_to(tmp_path / "elsewhere")
    with contextlib.suppress(OSError, UserError):
        convert(model, model, tmp_path / "checkpoint", Form.checkpoint)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert holds_checkpoint(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").is_symlink()


def test_a_checkpoint_that_cannot_get_its_name_leaves_nothing_of_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(conversion, "put_in_place", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        convert(model, model, tmp_path / "checkpoint", Form.checkpoint)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `model` as a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "weights"
    convert(model, model, folder, Form.checkpoint)
    return folder


def edited(folder: Path, target: Path, file: str, **changes: Any) -> Path:
    """A copy of a folder, of whose JSON file some keys say something else."""
    shutil.copytree(folder, target)
    (target / file).write_text(json.dumps(json.loads((target / file).read_text()) | changes))
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_theta": 1e6}, "rope_theta is 10000.0 there and 1000000.0 here"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is False there and True here"),
    ],
)
def test_weights_of_another_model_are_not_started_from(
    model: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    other = edited(model, tmp_path / "other", "config.json", **changes)
    for init in (model, checkpoint):
        with pytest.raises(UserError, match=f"^{init}: holds a different model: {said}"):
            convert(other, init, tmp_path / "hf", Form.hugging_face)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("file", [".metadata", "common.pt", "metadata.json", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_damaged_checkpoint_is_one_line_that_does_not_send_the_user_back_to_it(
    model: Path, checkpoint: Path, tmp_path: Path, file: str, damage: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    whole = (broken / file).read_bytes()
    if damage == "missing":
        (broken / file).unlink()
    else:
        (broken / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as error:
        convert(model, broken, tmp_path / "hf", Form.hugging_face)
    neither = file == "metadata.json" and damage == "missing"
    assert ("is neither a Hugging Face folder" if neither else "is damaged") in str(error.value)
    assert "model.init" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("file", [".metadata", "common.pt", "__0_0.distcp"])
def test_a_number_that_was_changed_on_disk_is_not_started_from(
    model: Path, checkpoint: Path, tmp_path: Path, file: str
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    content = bytearray((changed / file).read_bytes())
    content[len(content) // 2] ^= 1
    (changed / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is not what was written; use another checkpoint"):
        convert(model, changed, tmp_path / "hf", Form.hugging_face)


def _planted(folder: Path, file: str, payload: Payload) -> None:
    """Put the payload where torch's own reader would run it, with the checksums of what is there then."""
    if file == "__0_0.distcp":
        index = pickle.loads((folder / ".metadata").read_bytes())
        key, place = next(iter(index.storage_data.items()))
        content = io.BytesIO()
        torch.save(payload, content)
        index.state_dict_metadata[key.fqn] = BytesStorageMetadata()
        at = MetadataIndex(key.fqn)
        index.storage_data = {at: replace(place, offset=(folder / file).stat().st_size, length=len(content.getvalue()))}
        with open(folder / file, "ab") as grown:
            grown.write(content.getvalue())
        (folder / ".metadata").write_bytes(pickle.dumps(index))
    elif file == "common.pt":
        torch.save(payload, folder / file)
    else:
        (folder / file).write_bytes(pickle.dumps(payload))
    sums = {name: checksum(folder / name) for name in read_sums(folder)}
    (folder / SUMS).write_text(json.dumps(sums))


@pytest.mark.parametrize("file", [".metadata", "common.pt", "__0_0.distcp"])
def test_a_checkpoint_that_would_run_code_is_refused_by_the_name_of_the_file(
    model: Path, checkpoint: Path, tmp_path: Path, file: str
) -> None:
    planted, ran = tmp_path / "planted", tmp_path / "ran"
    shutil.copytree(checkpoint, planted)
    _planted(planted, file, Payload(ran))
    with pytest.raises(
        UserError, match=rf"planted/{file} names code to be run \([\w.]+\); rlscale did not write it so"
    ):
        convert(model, planted, tmp_path / "hf", Form.hugging_face)
    assert not ran.exists()
    if file != "common.pt":  # torch's readers of the others run it
        reader = torch.distributed.checkpoint.FileSystemReader(planted)
        with contextlib.suppress(AttributeError):  # the index is none
            (key,) = reader.read_metadata().storage_data
            torch.distributed.checkpoint.load({key.fqn: None}, storage_reader=reader, no_dist=True)
        assert ran.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "a/b"])
def test_an_index_that_names_files_elsewhere_is_refused(checkpoint: Path, tmp_path: Path, name: str) -> None:
    planted = tmp_path / "planted"
    shutil.copytree(checkpoint, planted)
    index = pickle.loads((planted / ".metadata").read_bytes())
    key, place = next(iter(index.storage_data.items()))
    index.storage_data[key] = replace(place, relative_path=name)
    (planted / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=r"planted/.metadata names files outside of its folder"):
        refuse_code(planted)


def test_numbers_that_the_type_cannot_hold_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    large = tmp_path / "large"
    shutil.copytree(model, large)
    weights = load_file(model / "model.safetensors")
    weights[name][3, 4] = 1e6
    save_file(weights, large / "model.safetensors")
    with pytest.raises(
        UserError, match=rf"{name} holds numbers up to 1e\+06, too large for model\.dtype=float16; choose"
    ):
        convert(large, large, tmp_path / "hf", Form.hugging_face, DType.float16)
    convert(large, large, tmp_path / "hf", Form.hugging_face, DType.bfloat16)
    weights[name][3, 4] = float("nan")
    save_file(weights, large / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} holds numbers that are not finite"):
        convert(large, large, tmp_path / "nan", Form.hugging_face)
