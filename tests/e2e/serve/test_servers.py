"""Engine and router as the supervisor runs them: through the router, after a kill, and with the key out of sight.

The engine serves a mixture of experts that says which ones it chose.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from shared_server import EXPERTS, tiny_model, wait_until_generating
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.config.derived.request_headers import ROUTED_EXPERTS_HEADER
from rlscale.config.schema.cluster_config import Device
from rlscale.platform.stacks import doing
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.engine_options import all_send_parts
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.ledger import Ledger
from rlscale.run.sides.router_elsewhere import RouterElsewhere
from rlscale.serve import server_stacks
from rlscale.serve.http import CallError, call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.spied_stacks import spied
from rlscale.serve.supervisor import Supervisor

BODY = {"input_ids": [5, 9, 3], "sampling_params": {"max_new_tokens": 8, "sampling_seed": 1}, "return_logprob": True}


@dataclass
class Servers:
    supervisor: Supervisor
    key: str
    engine: str
    router: str
    logs: Path
    model: Path


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, fork_server: str) -> Iterator[Servers]:
    """An engine and a router of their own, since these tests kill them."""
    folder = tmp_path_factory.mktemp("servers")
    key = secrets.token_hex(16)
    supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=fork_server)
    try:
        router = supervisor.start_router()
        model = tiny_model(folder / "scratch", **EXPERTS)
        engine = supervisor.start_engine(ServerSpec("engine-0", str(model), Device.cpu, routed_experts=True))
        RouterClient(router, key).add(engine)
        yield Servers(supervisor, key, engine, router, folder / "logs", model)
    finally:
        supervisor.stop()


def below(supervisor: Supervisor) -> list[psutil.Process]:
    """Every process of the supervisor's servers, guards included."""
    guards = [entry.process.guard_pid for entry in supervisor._entries.values() if entry.process]
    return [found for pid in guards for found in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


def test_the_router_passes_a_request_on_with_seed_and_logprobs(servers: Servers) -> None:
    direct = call(servers.engine, "/generate", servers.key, BODY, timeout=30)
    routed = call(servers.router, "/generate", servers.key, BODY, timeout=30)
    assert routed["output_ids"] == direct["output_ids"]
    assert len(routed["meta_info"]["output_token_logprobs"]) == 8
    with pytest.raises(CallError, match="status 401"):
        call(servers.router, "/generate", None, BODY, timeout=30)


@pytest.mark.parametrize(
    "path", ["/generate", "/v1/chat/completions", "/workers", "/get_loads", "/get_model_info", "/model_info"]
)
def test_without_the_key_nothing_is_done_and_nothing_told_of_the_run(servers: Servers, path: str) -> None:
    for url in (servers.engine, servers.router):
        with pytest.raises(CallError, match=r"status (401|404)"):
            call(url, path, None, BODY if path.startswith(("/generate", "/v1")) else None, timeout=10)


ROUTES = """
/generate /v1/chat/completions /v1/completions /rerank /v1/rerank /v1/responses /v1/classify /v1/embeddings /v1/tokenize
/v1/responses/a /v1/responses/a/cancel /v1/responses/a/input_items /v1/conversations /v1/conversations/a /v1/detokenize
/v1/conversations/a/items /v1/tokenizers /v1/tokenizers/a /v1/tokenizers/a/status /liveness /readiness /health /metrics
/health_generate /engine_metrics /v1/models /get_model_info /get_server_info /flush_cache /get_loads /workers /workers/a
/parse/function_call /parse/reasoning /wasm /wasm/a /ha/status /ha/health /ha/workers /ha/workers/a /ha/policies
/ha/config /ha/policies/a /ha/config/a /ha/rate-limit /ha/rate-limit/stats /ha/shutdown
"""
"""Those in the program of sglang-router 0.3.2."""
OPEN = {"/liveness", "/readiness", "/health", "/health_generate", "/get_server_info", "/v1/models"}
"""Those that docs/security.md names."""


def test_the_router_answers_without_the_key_where_the_documents_say_so_and_nowhere_else(servers: Servers) -> None:
    def answers(path: str) -> bool:
        with suppress(CallError):
            call(servers.router, path, None, timeout=10)
            return True
        with suppress(CallError):
            call(servers.router, path, None, {}, timeout=10)
            return True
        return False

    with ThreadPoolExecutor() as threads:
        found = dict(zip(ROUTES.split(), threads.map(answers, ROUTES.split()), strict=True))
    assert {path for path, told in found.items() if told} == OPEN


def test_a_router_that_only_its_own_machine_reaches_hears_of_engines_through_the_launcher_there(
    servers: Servers,
) -> None:
    with ThreadPoolExecutor() as calls:
        does = SimpleNamespace(remote=lambda method, *a: calls.submit(getattr(servers.supervisor, method), *a))
        host: Any = SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=lambda ref: ref.result(60))
        router = RouterElsewhere(host, SimpleNamespace(call=does), servers.router)
        router.remove(servers.engine)
        assert RouterClient(servers.router, servers.key).workers() == {}
        router.add(servers.engine)
        assert [*RouterClient(servers.router, servers.key).workers()] == [servers.engine]
        with pytest.raises(CallError, match=r"127\.0\.0\.1:9/workers"):
            RouterElsewhere(host, SimpleNamespace(call=does), "http://127.0.0.1:9").remove(servers.engine)


def test_what_the_router_tells_without_the_key_is_no_path_of_this_machine(servers: Servers) -> None:
    for path in ("/v1/models", "/get_server_info", "/liveness", "/readiness", "/health"):
        with suppress(CallError):  # not every version has all of them
            told = json.dumps(call(servers.router, path, None, timeout=10))
            assert str(servers.model) not in told, (path, told)
    assert "policy" in json.dumps(call(servers.router, "/v1/models", None, timeout=10))


def test_engine_and_router_listen_on_the_configured_host_alone(servers: Servers) -> None:
    """Their stores and metrics too."""
    own = [one for process in below(servers.supervisor) for one in process.net_connections(kind="inet")]
    listening = {one.laddr.ip for one in own if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def chosen_by(model: PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """The experts that transformers sends each token to, [tokens, layers, top_k], ascending."""
    with torch.no_grad():
        layers = model(torch.tensor([tokens]), output_router_logits=True).router_logits
    chosen = [logits.topk(EXPERTS["num_experts_per_tok"]).indices for logits in layers]
    return torch.stack(chosen, dim=1).sort(-1).values.numpy()


def test_the_experts_of_an_answer_are_those_that_the_model_chooses_also_for_cached_prefixes(servers: Servers) -> None:
    """Through the router: alone, after a prompt that shares a prefix, the same again, and in company."""
    model = AutoModelForCausalLM.from_pretrained(servers.model, dtype=torch.float32).eval()
    sizes = ExpertSizes.of(model.config.to_dict())
    text = np.random.default_rng(3).integers(4, 20, 90).tolist()
    prompts = [text[:60], text[:40] + text[60:], text[:60], *([[*text[:20], n] for n in range(4, 12)])]

    def ask(number: int) -> tuple[int, set[str]]:
        prompt = prompts[number]
        sampling = {"max_new_tokens": 24, "sampling_seed": number}
        body = {"input_ids": prompt, "sampling_params": sampling, "return_logprob": True}
        answer = call(servers.router, "/generate", servers.key, body, headers={ROUTED_EXPERTS_HEADER: "1"}, timeout=60)
        meta = answer["meta_info"]
        tokens = [*prompt, *(token for _, token, _ in meta["output_token_logprobs"])]
        chosen = sizes.decode(meta["routed_experts"], len(tokens) - 1)
        np.testing.assert_array_equal(np.sort(chosen, axis=-1), chosen_by(model, tokens[:-1]))
        return meta["cached_tokens"], {meta["finish_reason"]["type"]}

    assert EngineReceiver(servers.engine, servers.key).tells_routing()
    alone = [ask(number) for number in range(3)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(3, len(prompts))))
    assert [cached for cached, _ in alone] == [0, 40, 59]
    assert all(cached >= 20 for cached, _ in together)
    assert set.union(*(reason for _, reason in alone + together)) == {"stop", "length"}
    for headers in ({}, {ROUTED_EXPERTS_HEADER: "0"}):
        silent = call(servers.router, "/generate", servers.key, BODY, headers=headers, timeout=30)
        assert "routed_experts" not in silent["meta_info"]
    with pytest.raises(CallError, match=r"status 400: .*must be 0 or 1"):
        call(servers.router, "/generate", servers.key, BODY, headers={ROUTED_EXPERTS_HEADER: "yes"}, timeout=30)


def test_an_aborted_answer_has_experts_for_all_its_tokens_but_the_last(servers: Servers) -> None:
    """What `Continued` builds on where a weight sync cuts a request off."""
    model = AutoModelForCausalLM.from_pretrained(servers.model, dtype=torch.float32).eval()
    sizes = ExpertSizes.of(model.config.to_dict())
    prompt = np.random.default_rng(4).integers(4, 20, 12).tolist()
    sampling = {"max_new_tokens": 450, "sampling_seed": 5, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": sampling, "return_logprob": True}
    with ThreadPoolExecutor(1) as pool:
        headers = {ROUTED_EXPERTS_HEADER: "1"}
        running = pool.submit(call, servers.router, "/generate", servers.key, body, headers=headers, timeout=60)
        wait_until_generating(servers.engine, servers.key)
        EngineReceiver(servers.engine, servers.key).abort_all()
        meta = running.result(30)["meta_info"]
    assert meta["finish_reason"]["type"] == "abort"
    tokens = [token for _, token, _ in meta["output_token_logprobs"]]
    assert 0 < len(tokens) == meta["completion_tokens"] < 450
    assert [(span["start"], span["end"]) for span in meta["weight_versions"]] == [(0, len(tokens))]
    whole = [*prompt, *tokens]
    chosen = sizes.decode(meta["routed_experts"], len(whole) - 1)
    np.testing.assert_array_equal(np.sort(chosen, axis=-1), chosen_by(model, whole[:-1]))
    # The same seed goes on as if nothing had happened.
    kept = tokens[:-1]
    rest = {**body, "input_ids": [*prompt, *kept], "sampling_params": {**sampling, "max_new_tokens": 8}}
    again = call(servers.router, "/generate", servers.key, rest, timeout=60)["meta_info"]["output_token_logprobs"]
    assert again[0][1] == tokens[-1]


def test_the_key_is_in_no_log_command_line_or_environment(servers: Servers) -> None:
    call(servers.router, "/generate", servers.key, BODY, timeout=30)
    processes = below(servers.supervisor)
    titles = " ".join(process.name() for process in processes)
    assert len(processes) >= 6, titles  # two guards, server with scheduler and detokenizer, router
    for process in processes:
        for file in ("cmdline", "environ"):
            assert servers.key.encode() not in Path(f"/proc/{process.pid}/{file}").read_bytes(), (process, file)
    logs = sorted(servers.logs.iterdir())
    assert [log.name for log in logs] == ["engine-0.log", "router.log"]
    for log in logs:
        assert servers.key not in log.read_text(), log
    assert "server_args=" in logs[0].read_text(), "SGLang prints its arguments, or this test proves nothing"


async def long_response(servers: Servers) -> tuple[list[int], Ledger, int]:
    """Its tokens, their account, and how many requests an engine left unfinished."""
    client, ledger = EngineClient(servers.router, servers.key), Ledger()
    client.in_parts = await all_send_parts(client)
    sampling, attempt = SamplingParams(450, ignore_eos=True), Attempt(lambda: -1, ledger)
    try:
        engines, prompt = Continued(client, Cuts()), np.array(BODY["input_ids"], np.int32)
        found = await engines.generate(prompt, sampling, 1, Admission(1), attempt)
        return found.tokens.tolist(), ledger, client.interrupted
    finally:
        await client.close()


@pytest.mark.parametrize("readable", [True, False])
def test_the_stacks_of_engine_and_router_are_told_of_a_stopped_one_where_it_can_be_read(
    servers: Servers, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = next(process for process in below(servers.supervisor) if "scheduler" in " ".join(process.cmdline()))
    readable = readable and spied(scheduler.pid) is not None
    if readable:
        scheduler.suspend()
    else:  # as where no process may be traced: each writes them itself
        monkeypatch.setattr(server_stacks, "spied_families", lambda pids: {pid: {} for pid in pids})
    try:
        told = servers.supervisor.stacks()
    finally:
        scheduler.resume()
    known = {"engine-0": "engine_main.py", "engine-0 sglang::scheduler": "scheduler.py", "router": "router_main.py"}
    assert {name for name, file in known.items() if file not in told[name]} == set()
    assert "detokenizer_manager.py" in told["engine-0 sglang::detokenizer"]
    assert {name: doing(text) for name, text in told.items() if "scheduler" not in name} == {
        "engine-0": None,
        "engine-0 sglang::detokenizer": None,
        "router": None,
    }


def test_a_killed_engine_is_noticed_restarted_on_its_port_and_the_response_goes_on(servers: Servers) -> None:
    """Behind the tokens that had come, through the router, as if nothing had happened; nothing of it is left."""
    before = below(servers.supervisor)
    scratch = servers.logs.parent / "scratch" / "tmp"
    main = next(process for process in before if "engine_main" in " ".join(process.cmdline()))
    undisturbed, _, _ = asyncio.run(long_response(servers))
    EngineReceiver(servers.engine, servers.key).flush_cache()
    kept = tokens_in_cache(servers)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, long_response(servers))
        wait_until_generating(servers.engine, servers.key)
        wait_for(lambda: tokens_in_cache(servers) > kept + 150, 30)
        os.kill(main.pid, signal.SIGKILL)
        wait_for(lambda: servers.supervisor.dead() == ["engine-0"], 5)
        engine = [process for process in before if process.is_running() and "sglang" in process.name()]
        assert engine == []
        assert servers.supervisor.restart("engine-0") == servers.engine
        tokens, ledger, interrupted = running.result(60)
    assert interrupted == 1
    assert tokens == undisturbed
    assert ledger.tokens.received == 450, "what had come was not sampled again"
    assert servers.supervisor.dead() == []
    wait_for(lambda: succeeds(servers.router, servers.key), 20)
    assert len(list(scratch.iterdir())) == 2, "one folder of temporary files for each living server"


def test_a_scheduler_that_dies_takes_its_server_with_it(servers: Servers) -> None:
    scheduler = next(process for process in below(servers.supervisor) if "scheduler" in " ".join(process.cmdline()))
    scheduler.kill()
    wait_for(lambda: servers.supervisor.dead() == ["engine-0"], 10)


def test_an_engine_whose_guard_is_killed_ends_too(servers: Servers) -> None:
    servers.supervisor.restart("engine-0")
    scheduler = next(process for process in below(servers.supervisor) if "scheduler" in " ".join(process.cmdline()))
    server = scheduler.parent()
    assert server is not None
    guard = server.parent()
    assert guard is not None
    engine = guard.children(recursive=True)
    assert len(engine) == 3  # server, scheduler, detokenizer
    guard.kill()
    _, living = psutil.wait_procs(engine, timeout=5)
    assert living == []
    assert servers.supervisor.dead() == ["engine-0"]


def tokens_in_cache(servers: Servers) -> int:
    """Of requests under way and of those before."""
    return int(call(servers.engine, "/v1/loads?include=core", servers.key, timeout=10)["loads"][0]["num_used_tokens"])


def succeeds(url: str, key: str) -> bool:
    try:
        return len(call(url, "/generate", key, BODY, timeout=30)["output_ids"]) == 8
    except CallError:
        return False


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
