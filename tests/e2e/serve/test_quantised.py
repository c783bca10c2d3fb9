"""Engines of quantised weights compute with what the codes are worth, from the start and after further ones came."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared_server import SharedServer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.served_form import Int4Grid, ServedForm, WeightForm
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from rlscale.weights.bucket import Bucket
from rlscale.weights.encode import encoding_of
from rlscale.weights.encode.encoded_weights import EncodedWeights
from rlscale.weights.served_copy import write_served
from rlscale.weights.transports import flat_bucket
from tests.e2e.serve.test_engine import difference, generate

DENSE = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.08,
}
EXPERTS = {
    **DENSE,
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
FORMS = [ServedForm(kind, grid=Int4Grid.full) for kind in WeightForm if kind is not WeightForm.as_trained]

Weights = dict[str, Tensor]


class Once:
    """A source of one bucket."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def buckets(self, version: int) -> Iterator[Bucket]:
        yield Bucket(list(self.weights.items()), version)


@pytest.fixture(scope="module", params=[DENSE, EXPERTS], ids=["dense", "experts"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model whose matrices are whole blocks of FP8."""
    create = CreateModelConfig(architecture=request.param, characters="0123456789+-*=? ", seed=0)
    name = str(request.param["model_type"])
    return ensure_model_folder(ModelConfig(name=name, create=create), tmp_path_factory.mktemp("quantised"))


def transformers_model(folder: Path, weights: Weights, form: ServedForm, target: Path) -> PreTrainedModel:
    """Transformers' model of what the weights are worth in the form."""
    encoding = encoding_of(form)
    worth = {name: encoding.rounded(tensor) if form.quantises(name) else tensor for name, tensor in weights.items()}
    target.mkdir()
    shutil.copyfile(folder / "config.json", target / "config.json")
    save_file(worth, target / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


def send(engine: SharedServer, bucket: Bucket) -> None:
    """Give an engine of this machine a bucket, as runs do: a list in a pickle could hold no FP8."""
    entries, size = flat_bucket.contents(bucket.named)
    shared = flat_bucket.SharedBytes(size)
    try:
        flat_bucket.fill(shared.flat, bucket.named, entries)
        told = flat_bucket.dump(shared.reader(), entries)
        engine.receiver().receive_tensors([told], flat_bucket.LOAD_FORMAT, bucket.version, True)
    finally:
        shared.remove()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind.value)
def test_logprobs_are_those_of_transformers_with_what_the_codes_are_worth(
    form: ServedForm, model: Path, fork_server: str, tmp_path: Path
) -> None:
    first = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    second = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
    before = transformers_model(model, first, form, tmp_path / "before")
    after = transformers_model(model, second, form, tmp_path / "after")
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    companions = Companions(str(model), str(model))
    folder = served_folder(companions, "model", "float32", tmp_path, write_served, form)
    supervisor = Supervisor(tmp_path / "logs", tmp_path, "key", fork_server=fork_server)
    try:
        options = {"max_total_tokens": 1024, "max_running_requests": 2}
        url = supervisor.start_engine(ServerSpec("quantised", str(folder), Device.cpu, options=options))
        engine = SharedServer(url, "key", tmp_path, folder, tmp_path / "logs" / "quantised.log")
        answer = generate(engine, 3)
        assert difference(before, answer) < 1e-5
        assert difference(plain, answer) > 1e-2
        (bucket,) = EncodedWeights(Once(second), form).buckets(1)
        send(engine, bucket)
        answer = generate(engine, 4)
        assert difference(after, answer) < 1e-5
        assert difference(before, answer) > 1e-2
    finally:
        supervisor.stop()
