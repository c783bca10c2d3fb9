"""Engines that compute with an adapter: log-probs of Hugging Face with it merged, before and after each sync, with the
prefix cache on, and for requests that a sync meets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from shared_server import EXPERTS, SharedServer, tiny_model, wait_until_generating
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.config.derived.adapter_names import adapter_name
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.rollout_config import OnSync
from rlscale.families.config_file import complete, read_config
from rlscale.families.family import dimensions
from rlscale.families.linears import adapted_modules, is_of_expert, linear_rules, module
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.on_sync_modes import on_sync_mode
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.served_adapters import ServedAdapters
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from rlscale.trainer.megatron.disk.adapter_folder import peft_config
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.adapter import AdapterTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import TransferError

LORA = LoraConfig(rank=4, alpha=8.0)
PROMPTS = [np.array([4, 8, 12, 5, 9, 13, 6, 10, 14, 7, 11, 2, 4 + number], np.int32) for number in range(4)]
Adapter = dict[str, Tensor]


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def adapter_of(config: Mapping[str, Any], seed: int) -> Adapter:
    """Numbers for A and B of each linear that can have them."""
    random, sizes = torch.Generator().manual_seed(seed), dimensions(config)
    found: Adapter = {}
    for rule in (rule for rule in linear_rules(config) if not is_of_expert(rule)):
        for layer in rule.numbers(config):
            for tensor in rule.hf:
                outputs, inputs = (sizes[size] for size in tensor.shape)
                name = f"base_model.model.{module(tensor.name.format(layer=layer))}"
                found[f"{name}.lora_A.weight"] = torch.randn(LORA.rank, inputs, generator=random) * 0.1
                found[f"{name}.lora_B.weight"] = torch.randn(outputs, LORA.rank, generator=random) * 0.1
    return found


def merged(folder: Path, adapter: Adapter) -> PreTrainedModel:
    """Transformers' model with what peft's formula adds."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = model.state_dict()
    for name in (name.removesuffix(".lora_A.weight") for name in adapter if ".lora_A." in name):
        delta = adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
        weights[f"{name.removeprefix('base_model.model.')}.weight"].add_(delta * (LORA.alpha / LORA.rank))
    return model


@dataclass(frozen=True)
class Engine:
    """A server of adapters, and as many of them with the models that they make."""

    server: SharedServer
    config: Mapping[str, Any]
    adapters: list[Adapter]
    models: list[PreTrainedModel]

    def transport(self, kind: OnSync = OnSync.wait, *, shares: bool = True) -> AdapterTransport:
        way = AdapterTransport(Route(timeout_s=60.0, shares_devices=shares), peft_config(LORA, self.config, "base"))
        way.connect([EngineReceiver(self.server.url, self.server.api_key, keep=kind.pause)])
        return way

    def send(self, transport: AdapterTransport, version: int) -> None:
        transport.send(Bucket(list(self.adapters[version % len(self.adapters)].items()), version))
        transport.commit(version)

    def difference(self, prompt: np.ndarray, generation: Generation) -> float:
        """Largest |engine - Hugging Face| log-prob, each token by the adapter of its version."""
        tokens = torch.tensor([[*prompt.tolist(), *generation.tokens.tolist()]])
        with torch.no_grad():
            by = [model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in self.models]
        own = torch.stack([one.gather(1, tokens[0, len(prompt) :, None])[:, 0] for one in by]).numpy()
        expected = own[generation.versions % len(self.models), np.arange(len(generation.tokens))]
        return float(np.abs(expected - generation.logprobs).max())

    def generate(self, version: int, number: int = 0) -> Generation:
        """A response to a request that names the adapter of a version."""

        async def main() -> Generation:
            client = EngineClient(self.server.url, self.server.api_key)
            client.adapter = adapter_name(version)
            try:
                return await client.generate(PROMPTS[number], SamplingParams(24, ignore_eos=True), seed=1)
            finally:
                await client.close()

        return asyncio.run(main())


DENSE_ALONE = pytest.mark.parametrize("engine", [{}], indirect=True, ids=["dense"])


@pytest.fixture(scope="module")
def engine(
    request: pytest.FixtureRequest, fork_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("adapters")
    model = tiny_model(folder, **request.param)
    config = complete(read_config(model))
    supervisor = Supervisor(folder / "logs", folder, "key", fork_server=fork_server)
    kind = ServedAdapters(LORA.rank, tuple(adapted_modules(config, None)))
    try:
        url = supervisor.start_engine(ServerSpec("adapters", str(model), Device.cpu, adapters=kind))
        server = SharedServer(url, "key", folder, model, folder / "logs" / "adapters.log")
        adapters = [adapter_of(config, seed) for seed in range(3)]
        yield Engine(server, config, adapters, [merged(model, adapter) for adapter in adapters])
    finally:
        supervisor.stop()


@pytest.mark.parametrize("engine", [{}, EXPERTS], indirect=True, ids=["dense", "experts"])
def test_logprobs_are_those_of_the_adapter_before_and_after_a_sync_with_the_prefix_cache_on(engine: Engine) -> None:
    for version, shares in ((1, True), (2, False), (2, True), (3, True)):  # one is sent anew, one in the call itself
        engine.send(engine.transport(shares=shares), version)
        for _ in range(2):  # the second time the prompt is cached
            found = engine.generate(version)
            assert {*found.versions.tolist()} == {version}
            assert engine.difference(PROMPTS[0], found) < 1e-5
    assert engine.difference(PROMPTS[0], engine.generate(1)) < 1e-5, "a name from before the sync gets the present one"
    assert engine.server.receiver().weight_version() == "3"


@DENSE_ALONE
def test_an_engine_that_is_behind_refuses_a_request_and_one_that_gets_damage_keeps_what_it_has(engine: Engine) -> None:
    engine.send(engine.transport(), 4)
    with pytest.raises(Exception, match="policy-5"):
        engine.generate(5)
    transport = engine.transport()
    transport.send(Bucket(list(engine.adapters[2].items()), 5))
    assert transport._shared is not None
    transport._shared.flat[100] ^= 1
    with pytest.raises(TransferError, match="damaged on its way"):
        transport.commit(5)
    assert engine.difference(PROMPTS[0], engine.generate(4)) < 1e-5


@DENSE_ALONE
@pytest.mark.parametrize("kind", [OnSync.abort_and_resume, OnSync.retract, OnSync.in_place])
def test_each_token_is_of_its_own_versions_adapter_across_two_syncs(engine: Engine, kind: OnSync) -> None:
    first = 10 * (1 + list(OnSync).index(kind))
    version = first

    async def main() -> list[Generation]:
        nonlocal version
        client, admission = EngineClient(engine.server.url, engine.server.api_key), Admission(32)
        engines = Continued(client, Cuts())
        mode, transport = on_sync_mode(kind, admission, client, engines.cuts), engine.transport(kind)
        await asyncio.to_thread(engine.send, transport, version)
        client.adapter = adapter_name(version)
        running = [
            asyncio.create_task(
                engines.generate(
                    prompt, SamplingParams(200, ignore_eos=True), number, admission, Attempt(lambda: version)
                )
            )
            for number, prompt in enumerate(PROMPTS)
        ]
        for _ in range(2):
            await asyncio.to_thread(wait_until_generating, engine.server.url, engine.server.api_key)
            await mode.pause()
            await asyncio.to_thread(engine.send, transport, version + 1)
            version += 1
            client.adapter = adapter_name(version)
            mode.resume()
        found = await asyncio.gather(*running)
        await client.close()
        return found

    found = asyncio.run(asyncio.wait_for(main(), 120))
    assert {one for generation in found for one in generation.versions.tolist()} == {first, first + 1, first + 2}
    assert max(engine.difference(*pair) for pair in zip(PROMPTS, found, strict=True)) < 1e-5
