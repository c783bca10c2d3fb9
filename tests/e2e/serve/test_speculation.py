"""An engine that speculates, on a GPU: log-probs are the policy's, and so are the tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from shared_server import SharedServer, tiny_model

from rlscale.config.derived.speculation_options import speculation_options
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.speculation_config import Algorithm, SpeculationConfig
from rlscale.rollout.engines.speculated import Speculated
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.serve.test_engine import PROMPT, difference, generate, send_plain, sharpened, tokens_of

pytestmark = pytest.mark.gpu
KEY = "the key of the engine"


@pytest.fixture(scope="module", params=[Algorithm.ngram, Algorithm.standalone])
def speculating(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("speculating")
    model, draft = tiny_model(folder / "scratch"), tiny_model(folder / "draft", num_hidden_layers=1)
    given = SpeculationConfig(request.param)
    if request.param is Algorithm.standalone:
        given = SpeculationConfig(request.param, str(draft), steps=3, topk=1, draft_tokens=4)
    options = speculation_options(given, str(model), str(draft))
    supervisor = Supervisor(folder / "logs", folder / "scratch", KEY)
    try:
        url = supervisor.start_engine(ServerSpec("speculating", str(model), Device.cuda, gpus=(0,), options=options))
        yield SharedServer(url, KEY, folder / "none", model, folder / "logs" / "speculating.log")
    finally:
        supervisor.stop()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_frequencies_are_the_policys_also_after_a_sync(
    speculating: SharedServer, temperature: float, tmp_path: Path
) -> None:
    for version in (1, 2):
        model = sharpened(speculating, version)
        send_plain(EngineReceiver(speculating.url, KEY, to_draft=False), model, version)
        counts = Speculated()
        answer = generate(speculating, 3, 64, temperature=temperature)
        counts.answered(answer["meta_info"])
        assert difference(model, answer, temperature=temperature) < 1e-4
        assert counts.take()["speculation/tokens_per_pass"] >= 1.0
    with ThreadPoolExecutor(32) as pool:
        drawn = list(
            pool.map(lambda seed: tokens_of(generate(speculating, seed, 2, temperature=temperature)), range(600))
        )
    first = Counter(tokens[0] for tokens in drawn).most_common(1)[0][0]
    second = torch.tensor([tokens[1] for tokens in drawn if tokens[0] == first])
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, first]])).logits[0, -1].float() / temperature
    expected = len(second) * logits.softmax(-1).double()
    often = expected >= 5
    found = torch.bincount(second, minlength=len(expected)).double()
    statistic = ((found - expected) ** 2 / expected)[often].sum().item()
    freedom = int(often.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, (statistic, freedom)
