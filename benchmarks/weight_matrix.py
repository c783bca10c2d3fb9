"""Form x transport x family: how far an engine's log-probs are off after a sync, what was carried, how long it took.

`python benchmarks/weight_matrix.py [family ...]`, about a minute each on two cores: one engine of a tiny random model
in each form gets a further version by each transport. The reference is transformers in float32 with what the codes are
worth, the difference the largest of 64 tokens. FP8 does not go over gloo; latent attention is served as trained only.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import describe_machine, load_average
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.http import call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.server_spec import ServerSpec, fork_server_environment
from rlscale.serve.supervisor import Supervisor
from rlscale.weights.bucket import Bucket
from rlscale.weights.encode import encoding_of
from rlscale.weights.encode.encoded_weights import EncodedWeights
from rlscale.weights.served_copy import write_served
from rlscale.weights.transfer import transfer
from rlscale.weights.transports.broadcast import BroadcastTransport
from rlscale.weights.transports.delta import DeltaTransport
from rlscale.weights.transports.disk import DiskTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import Transport

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "families"
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
FAMILIES = {"dense": "qwen3", "experts": "qwen3_moe", "mla": "deepseek_v3"}
PROMPT, TOKENS = [5, 9, 3, 12, 7, 7, 4, 10, 6, 3], 64
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """All weights in one bucket."""

    weights: Weights

    def buckets(self, version: int) -> Iterator[Bucket]:
        yield Bucket(list(self.weights.items()), version)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print("| family | form | transport | largest difference | MB | s |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory(prefix="matrix-") as name:
        folder = Path(name)
        forks = start_fork_server(fork_server_environment(folder), folder)
        try:
            for family in sys.argv[1:] or FAMILIES:
                for kind in WeightForm if family != "mla" else (WeightForm.as_trained,):
                    place = folder / family / kind.value
                    place.mkdir(parents=True)
                    measure(family, ServedForm(kind), place, forks.address)
        finally:
            forks.stop()


def measure(family: str, form: ServedForm, folder: Path, forks: str) -> None:
    """An engine of a form, and a line for each transport."""
    model, key = model_folder(family, folder), secrets.token_hex(16)
    served = served_folder(Companions(str(model), str(model)), family, "float32", folder, write_served, form)
    supervisor = Supervisor(folder / "logs", folder, key, fork_server=forks)
    try:
        options = {"max_total_tokens": 1024, "max_running_requests": 2}
        url = supervisor.start_engine(ServerSpec("engine", str(served), Device.cpu, options=options))
        receiver = EngineReceiver(url, key)
        for version, (way, transport) in enumerate(transports(form, served, folder), start=1):
            weights = moved(load_file(model / "model.safetensors"), version)
            transport.connect([receiver])
            encoded = form.kind is not WeightForm.as_trained
            source = EncodedWeights(Source(weights), form) if encoded else Source(weights)
            began = time.perf_counter()
            found = transfer(source, transport, [receiver], version)
            seconds, carried = time.perf_counter() - began, found["bytes"]
            if way == "delta":
                carried = sum(file.stat().st_size for file in (folder / "delta").rglob("payload*"))
            transport.close()
            worst = difference(reference(model, weights, form, folder / f"v{version}"), url, key)
            print(
                f"| {family} | {form.kind.value} | {way} | {worst:.1e} | {carried / 1e6:.2f} | {seconds:.3f} |",
                flush=True,
            )
    finally:
        supervisor.stop()


def model_folder(family: str, folder: Path) -> Path:
    """A tiny random model."""
    shapes = {"dense": DENSE, "experts": EXPERTS}
    config: dict[str, Any] = shapes.get(family) or json.loads(
        (FIXTURES / "deepseek_v3.json").read_text(encoding="utf-8")
    )
    given = {key: value for key, value in config.items() if key not in ("architectures", "vocab_size")}
    create = CreateModelConfig({**given, "initializer_range": 0.08}, "0123456789+-*=? ", 0)
    return ensure_model_folder(ModelConfig(name=family, create=create), folder / "model")


def transports(form: ServedForm, served: Path, folder: Path) -> Iterator[tuple[str, Transport]]:
    """Those that carry the form between processes of this machine."""
    route = Route(timeout_s=60.0, started_from=str(served), folder=str(folder / "in_flight"))
    yield "shared_memory", SharedMemoryTransport(route)
    if form.kind in (WeightForm.as_trained, WeightForm.int4):
        yield "broadcast", BroadcastTransport(route)
    yield "disk", DiskTransport(route, keep=1)
    yield "delta", DeltaTransport(route, folder=str(folder / "delta"))


def moved(weights: Weights, seed: int) -> Weights:
    """Other weights, far enough that log-probs tell them apart."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=random) if tensor.dim() > 1 else tensor
        for name, tensor in weights.items()
    }


def reference(model: Path, weights: Weights, form: ServedForm, target: Path) -> PreTrainedModel:
    """Transformers' model of what the weights are worth in the form."""
    worth = weights
    if form.kind is not WeightForm.as_trained:
        encoding = encoding_of(form)
        worth = {name: encoding.rounded(tensor) if form.quantises(name) else tensor for name, tensor in weights.items()}
    target.mkdir()
    shutil.copyfile(model / "config.json", target / "config.json")
    save_file(worth, target / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


def difference(model: PreTrainedModel, url: str, key: str) -> float:
    """Largest |engine - transformers| log-prob over generated tokens."""
    params = {"max_new_tokens": TOKENS, "temperature": 1.0, "ignore_eos": True, "sampling_seed": 1}
    body = {"input_ids": PROMPT, "sampling_params": params, "return_logprob": True}
    told = call(url, "/generate", key, body, timeout=60)["meta_info"]["output_token_logprobs"]
    tokens = [token for _, token, _ in told]
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *tokens]])).logits[0].float()
    expected = logits.log_softmax(-1)[len(PROMPT) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return (expected - torch.tensor([logprob for logprob, _, _ in told])).abs().max().item()


if __name__ == "__main__":
    main()
