"""Two real engines of which one reads prompts and the other generates, over TCP, behind the real router, and a run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from shared_server import SharedServer, wait_until_generating

from rlscale.config.derived.request_headers import SAMPLING_SUPPORT_HEADER
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.run.processes.forks import read_forks, write_forks
from rlscale.serve.http import call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import PAIRED, RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.run.command import SHORT, Started, metrics, only_run, summary
from tests.e2e.run.test_models_beside import kill
from tests.e2e.serve.test_engine import PROMPT, difference, generate, send_plain, sharpened, tokens_of

KEY = "the key of the pair"


@dataclass(frozen=True)
class Pair:
    """Asked at the router like a single server."""

    url: str
    api_key: str
    model_folder: Path
    engines: dict[Role, EngineReceiver]


@pytest.fixture(scope="module")
def pair(
    shared_server: SharedServer, transfer_fork_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    supervisor = Supervisor(folder / "logs", folder / "scratch", KEY, fork_server=transfer_fork_server)
    try:
        with ThreadPoolExecutor(3) as pool:
            specs = [
                ServerSpec(role.value, str(shared_server.model_folder), Device.cpu, role=role)
                for role in (Role.prefill, Role.decode)
            ]
            starting = [pool.submit(supervisor.start_engine, spec) for spec in specs]
            router = pool.submit(supervisor.start_router, {PAIRED: True}).result()
            urls = {spec.role: one.result() for spec, one in zip(specs, starting, strict=True)}
        for role, url in urls.items():
            RouterClient(router, KEY).add(url, role=role)
        engines = {role: EngineReceiver(url, KEY) for role, url in urls.items()}
        yield Pair(router, KEY, shared_server.model_folder, engines)
    finally:
        supervisor.stop()


def test_a_pair_has_the_logprobs_and_the_seeded_tokens_of_a_single_engine_before_and_after_a_sync(
    pair: Pair, shared_server: SharedServer
) -> None:
    for version in (1, 2):
        model = sharpened(shared_server, version)
        for receiver in (*pair.engines.values(), shared_server.receiver()):
            send_plain(receiver, model, version)
        for prompt in ([5, 9, 3], PROMPT * 9):
            found = generate(pair, 3, 24, prompt)
            assert difference(model, found, prompt) < 1e-4
            assert tokens_of(found) == tokens_of(generate(shared_server, 3, 24, prompt))
            assert found["meta_info"]["weight_version"] == str(version)


def test_a_request_that_was_aborted_goes_on_from_the_tokens_that_it_has(
    pair: Pair, shared_server: SharedServer
) -> None:
    model = sharpened(shared_server, 3)
    for receiver in pair.engines.values():
        send_plain(receiver, model, 3)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, pair, 12, 480)
        wait_until_generating(pair.engines[Role.decode].url, KEY)
        for receiver in pair.engines.values():
            receiver.abort_all()
        answer = running.result(30)
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    kept = tokens_of(answer)
    assert 0 < len(kept) < 480
    assert difference(model, answer) < 1e-4
    later = generate(pair, 12, 20, [*PROMPT, *kept])
    assert difference(model, later, [*PROMPT, *kept]) < 1e-4


def test_logprobs_of_a_prompt_and_the_likeliest_words_come_from_a_pair(pair: Pair, shared_server: SharedServer) -> None:
    model = sharpened(shared_server, 4)
    for receiver in (*pair.engines.values(), shared_server.receiver()):
        send_plain(receiver, model, 4)
    body = {
        "input_ids": PROMPT,
        "sampling_params": {"max_new_tokens": 8, "temperature": 1.0, "sampling_seed": 1, "ignore_eos": True},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 4,
    }
    alone = call(shared_server.url, "/generate", shared_server.api_key, body, timeout=60)["meta_info"]
    both = call(pair.url, "/generate", KEY, body, timeout=60)["meta_info"]
    for name in ("input_token_logprobs", "output_token_logprobs"):
        assert [entry[1] for entry in both[name]] == [entry[1] for entry in alone[name]]
        assert all(abs((a[0] or 0) - (b[0] or 0)) < 1e-4 for a, b in zip(both[name], alone[name], strict=True))
    for a, b in zip(both["output_top_logprobs"], alone["output_top_logprobs"], strict=True):
        assert [word for _, word, _ in a] == [word for _, word, _ in b]


@pytest.mark.parametrize(
    "sampling", [{"top_p": 0.8, "top_k": 5}, {"stop_token_ids": [7]}, {"temperature": 0.0}, {"top_k": 4}]
)
def test_a_pair_samples_what_a_single_engine_samples(
    pair: Pair, shared_server: SharedServer, sampling: dict[str, Any]
) -> None:
    """With the words that were left for each token, where they are asked for."""
    model = sharpened(shared_server, 5)
    for receiver in (*pair.engines.values(), shared_server.receiver()):
        send_plain(receiver, model, 5)
    params = {"max_new_tokens": 12, "temperature": 1.0, "sampling_seed": 3, **sampling}
    named = "top_k" in sampling
    body = {"input_ids": PROMPT, "sampling_params": params, "return_logprob": True, "return_sampling_mask": named}
    headers = {SAMPLING_SUPPORT_HEADER: "1"} if named else {}
    both, alone = (
        call(one.url, "/generate", one.api_key, body, headers=headers, timeout=60) for one in (pair, shared_server)
    )
    assert tokens_of(both) == tokens_of(alone)
    assert both["meta_info"].get("output_token_sampling_mask") == alone["meta_info"].get("output_token_sampling_mask")


def test_a_run_gives_both_every_version_and_goes_on_when_one_is_killed(
    ready: list[str], transfer_fork_server: str, tmp_path: Path
) -> None:
    """The engine that reads prompts, with -9. Both come back with the same weights, and no sample fails."""
    warm, joins = ready
    forks = replace(read_forks(Path(warm.partition("=")[2])), engines=transfer_fork_server)
    write_forks(forks, tmp_path / "warm.json")
    groups = [
        f"rollout.engine_groups.{name}.role={role}" for name, role in (("reads", "prefill"), ("writes", "decode"))
    ]
    given = [*groups, "run.iterations=4", "eval.enabled=false", "weights.verify_every=1"]
    with Started(tmp_path, *SHORT, f"cluster.warm={tmp_path / 'warm.json'}", joins, *given) as started:
        started.wait_for("iteration 1/4")
        kill(only_run(tmp_path) / "logs", "engine-0")
        assert started.process.wait(timeout=120) == 0, started.log.read_text()
    said = started.log.read_text()
    assert "engine-0 died; restarting all engines, which hold parts of the same requests" in said
    assert "all engines are back with the current weights" in said
    lines = metrics(only_run(tmp_path))
    assert [line["weight_version"] for line in lines] == list(range(1, 5))
    assert all(line["canary_diff"] < 1e-4 for line in lines)
    assert all(line["logprob_diff_max"] < 1e-4 for line in lines)
    assert summary(only_run(tmp_path))["samples_failed"] == 0
    assert summary(only_run(tmp_path))["engine_restarts"] == 1
