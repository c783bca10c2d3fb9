"""CPU engines that quantise activations compute what the kernels of GPUs do, from the start and after an update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_server import SharedServer
from transformers import AutoModelForCausalLM

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from rlscale.weights.encode.encoded_weights import EncodedWeights
from rlscale.weights.served_copy import write_served
from tests.e2e.serve.rounding_model import Greedy, RoundingModel
from tests.e2e.serve.test_engine import generate, tokens_of
from tests.e2e.serve.test_quantised import DENSE, EXPERTS, Once, Weights, send, transformers_model

SMALL = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 2}
MODELS = {"dense": {**DENSE, **SMALL}, "experts": {**EXPERTS, **SMALL}}


def disagreement(engine: SharedServer, prompt: Sequence[int], expected: Greedy) -> float:
    """Of log-probs, the largest, behind a prompt that the engine continues with the same tokens."""
    answer = generate(engine, None, len(expected.tokens), prompt, temperature=0.0)
    assert tokens_of(answer) == expected.tokens
    got = [logprob for logprob, _, _ in answer["meta_info"]["output_token_logprobs"]]
    return max(abs(one - other) for one, other in zip(got, expected.logprobs, strict=True))


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (WeightForm.fp8_block, "dense"),
        (WeightForm.fp8_block, "experts"),
        (WeightForm.fp8_tensor, "experts"),
        (WeightForm.mxfp8, "experts"),
    ],
)
def test_logprobs_are_those_of_transformers_with_rounded_weights_and_activations(
    form: WeightForm, kind: str, fork_server: str, tmp_path: Path
) -> None:
    create = CreateModelConfig(architecture=MODELS[kind], characters="0123456789+-*=? ", seed=0)
    model = ensure_model_folder(ModelConfig(name=kind, create=create), tmp_path / "model")
    served = ServedForm(form)
    first = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    second = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
    folder = served_folder(Companions(str(model), str(model)), kind, "float32", tmp_path, write_served, served)
    supervisor = Supervisor(tmp_path / "logs", tmp_path, "key", fork_server=fork_server)
    try:
        options = {"max_total_tokens": 1024, "max_running_requests": 2}
        spec = ServerSpec("rounding", str(folder), Device.cpu, options=options, quantised_activations=True)
        url = supervisor.start_engine(spec)
        engine = SharedServer(url, "key", tmp_path, folder, tmp_path / "logs" / "rounding.log")
        _agrees(engine, model, first, served, tmp_path / "before")
        (bucket,) = EncodedWeights(Once(second), served).buckets(1)
        send(engine, bucket)
        _agrees(engine, model, second, served, tmp_path / "after")
    finally:
        supervisor.stop()


def _agrees(engine: SharedServer, model: Path, weights: Weights, form: ServedForm, folder: Path) -> None:
    reference = RoundingModel(transformers_model(model, weights, form, folder), form)
    prompt, expected = reference.clear_prompt(3, 2, 16)
    assert disagreement(engine, prompt, expected) < 1e-5
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        scores = plain(torch.tensor([[*prompt, *expected.tokens]])).logits[0].log_softmax(-1)
    unrounded = scores[len(prompt) - 1 : -1].gather(1, torch.tensor(expected.tokens)[:, None])[:, 0]
    assert (unrounded - torch.tensor(expected.logprobs)).abs().max() > 1e-3
