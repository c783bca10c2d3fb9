"""An engine of each family: transformers' log-probs, after an update with tensors as a folder names them, and from an
export."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from shared_server import SharedServer
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, read_json
from rlscale.families.family import Head
from rlscale.families.tensors import carried_tensors, expected_tensors, is_kept
from rlscale.platform.tensor_sum import TensorSum
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from rlscale.trainer.megatron.disk.export import export_folder
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.verified import difference as untold
from tests.e2e.serve.test_engine import difference, generate
from tests.unit.families.folders import TINY

SERVED = {
    **{family: TINY[family] for family in sorted(FAMILIES.keys() - {"qwen3", "qwen3_moe"})},
    "kimi_k2": {
        **TINY["deepseek_v3"],
        "n_group": 1,
        "topk_group": 1,
        "rms_norm_eps": 1e-5,
        "routed_scaling_factor": 2.827,
        "rope_scaling": {**TINY["deepseek_v3"]["rope_scaling"], "beta_fast": 1.0, "beta_slow": 1.0},
    },
    "windows": {**TINY["qwen2"], "use_sliding_window": True, "sliding_window": 192, "max_window_layers": 1},
    "linear": {**TINY["qwen3"], "rope_theta": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
"""Configs of the families that other tests serve no engine of, and of a scaling that no tiny config of theirs has."""

LONG = [(7 * number) % 19 for number in range(150)]


@pytest.fixture(params=list(SERVED))
def engine(request: pytest.FixtureRequest, fork_server: str, tmp_path: Path) -> Iterator[SharedServer]:
    """An engine of a family's tiny model, made as `model.create` makes one."""
    given = {key: value for key, value in SERVED[request.param].items() if key not in ("architectures", "vocab_size")}
    create = CreateModelConfig(architecture={**given, "initializer_range": 0.2}, characters="0123456789+-*=? ", seed=0)
    folder = ensure_model_folder(ModelConfig(name=request.param, create=create), tmp_path)
    supervisor = Supervisor(tmp_path / "logs", tmp_path / "scratch", "key", fork_server=fork_server)
    try:
        options = {"max_total_tokens": 2048, "max_running_requests": 4}
        url = supervisor.start_engine(ServerSpec(request.param, str(folder), Device.cpu, options=options))
        log = tmp_path / "logs" / f"{request.param}.log"
        yield SharedServer(url, "key", tmp_path, folder, log)
    finally:
        supervisor.stop()


def sharpened(folder: Path, target: Path) -> PreTrainedModel:
    """The folder's model with other weights, whose log-probs differ widely; saved to `target`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(0.0, 0.3, generator=generator)
            parameter.add_(noise) if parameter.dim() > 1 else parameter.add_(noise / 3)
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-3.0, 0.0, len(parameter)))  # matrices that last, unlike new ones
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.02, generator=generator)
    model.save_pretrained(target)
    return model


def _configure_norms(model: PreTrainedModel) -> None:
    """`rms_norm_eps` in the norms of latent attention, too, as SGLang has it; transformers has 1e-6 there."""
    for name, module in model.named_modules():
        if name.endswith(("q_a_layernorm", "kv_a_layernorm")):
            module.variance_epsilon = model.config.rms_norm_eps


def _predicting_layer(folder: Path) -> list[tuple[str, torch.Tensor]]:
    """The layer that predicts a token further, which an update has where it is trained."""
    config = complete(json.loads((folder / "config.json").read_text()))
    if not FAMILIES[config["model_type"]].mtp:
        return []
    every = expected_tensors(config, Head.language, mtp=True).items()
    return [(name, torch.ones(shape)) for name, (shape, _) in every if is_kept(name, config)]


class _OneBucket:
    """Named tensors as a trainer hands its own out."""

    def __init__(self, named: list[tuple[str, torch.Tensor]]) -> None:
        self._named = named

    def buckets(self, version: int) -> Iterator[Bucket]:
        yield Bucket(self._named, version)


def exported(folder: Path, target: Path) -> Path:
    """The folder's model as a run exports it: what is trained in buckets, what is kept from the folder itself."""
    config, named = complete(read_json(folder / "config.json")), load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in named.items() if is_kept(name, config)}
    trained = [(name, tensor) for name, tensor in named.items() if name not in kept]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        export_folder(_OneBucket(trained), Companions(str(folder), str(folder)), target, kept=kept.items())
    finally:
        dist.destroy_process_group()
    return target


def test_logprobs_and_tensors_are_those_of_transformers_also_after_an_update_and_from_an_export(
    engine: SharedServer, tmp_path: Path
) -> None:
    first = AutoModelForCausalLM.from_pretrained(engine.model_folder, dtype=torch.float32).eval()
    second = sharpened(engine.model_folder, tmp_path / "second")
    for model in (first, second):
        _configure_norms(model)
    answer = generate(engine, 3, tokens=48)
    found = [difference(first, answer)]
    assert difference(second, answer) > 0.1
    receiver, named = engine.receiver(), list(load_file(tmp_path / "second" / "model.safetensors").items())
    named += _predicting_layer(engine.model_folder)
    half = next(number for number, (name, _) in enumerate(named) if name.startswith("model.layers.1."))
    for part, last in ((named[:half], False), (named[half:], True)):
        receiver.receive_tensors([base64.b64encode(pickle.dumps(part)).decode()], None, 1, last)
    found.append(difference(second, generate(engine, 3, tokens=48)))
    found.append(difference(second, generate(engine, 4, tokens=16, prompt=LONG), LONG))
    carried = carried_tensors(complete(read_json(engine.model_folder / "config.json")))  # which no engine is sent
    named = load_file(tmp_path / "second" / "model.safetensors")
    sent = {name: TensorSum.of(tensor) for name, tensor in named.items() if name not in carried}
    assert untold(sent, receiver.weight_sums()) == ""
    receiver.receive_folder(str(exported(engine.model_folder, tmp_path / "export")), 2)
    found.append(difference(first, generate(engine, 5, tokens=48)))
    print(engine.log.stem, "at its start, twice after an update, from an export", [f"{one:.1e}" for one in found])
    assert all(one < 1e-4 for one in found)
