"""INT4 engines on a GPU: log-probs of what the codes are worth, from the start and after every update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_server import SharedServer

from rlscale.config.schema.cluster_config import Device
from rlscale.data.folders.companions import Companions
from rlscale.data.folders.served_folder import served_folder
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from rlscale.weights.encode.encoded_weights import EncodedWeights
from rlscale.weights.served_copy import write_served
from tests.e2e.serve.test_engine import difference, generate
from tests.e2e.serve.test_quantised import Once, model, send, transformers_model

__all__ = ["model"]  # the fixture: a dense model and a mixture of experts

pytestmark = pytest.mark.gpu
NEAR, FAR = 0.1, 0.3
"""Log-probs in bfloat16 by kernels that sum in another order, and those of other weights."""


def test_every_update_of_int4_weights_is_what_the_kernels_compute_with(model: Path, tmp_path: Path) -> None:
    form = ServedForm(WeightForm.int4)
    first = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(1)
    versions = [first]
    for _ in range(2):
        noise = {name: 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
        versions.append({name: (tensor + noise[name]).bfloat16() for name, tensor in first.items()})
    folder = served_folder(Companions(str(model), str(model)), "model", "bfloat16", tmp_path, write_served, form)
    supervisor = Supervisor(tmp_path / "logs", tmp_path, "key")
    try:
        options = {"max_total_tokens": 4096, "max_running_requests": 4}
        spec = ServerSpec("quantised", str(folder), Device.cuda, dtype="bfloat16", options=options, gpus=(0,))
        url = supervisor.start_engine(spec)
        engine = SharedServer(url, "key", tmp_path, folder, tmp_path / "logs" / "quantised.log")
        for number, weights in enumerate(versions):
            if number:
                (bucket,) = EncodedWeights(Once(weights), form).buckets(number)
                send(engine, bucket)
            answer = generate(engine, number)
            own, other = (
                transformers_model(model, made, form, tmp_path / f"{number}-{kind}")
                for kind, made in (("own", weights), ("other", versions[number - 1]))
            )
            assert difference(own, answer) < NEAR
            assert difference(other, answer) > FAR
    finally:
        supervisor.stop()
