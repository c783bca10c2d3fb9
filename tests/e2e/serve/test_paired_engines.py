"""Two real engines of which one reads prompts and the other generates, over TCP, behind the real router."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from shared_server import SharedServer, wait_until_generating

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.http import call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.router import PAIRED, RouterClient
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.serve.test_engine import PROMPT, difference, generate, send_plain, sharpened, tokens_of
from tests.extras.transfer_engine import transfer_engine

KEY = "the key of the pair"


@dataclass(frozen=True)
class Pair:
    """Asked at the router like a single server."""

    url: str
    api_key: str
    model_folder: Path
    engines: dict[Role, EngineReceiver]


@pytest.fixture(scope="module")
def pair(shared_server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in transfer_engine().items():
            patch.setenv(name, value, prepend=":")
        supervisor = Supervisor(folder / "logs", folder / "scratch", KEY)
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
    print(
        "KEYS",
        sorted(both),
        len(both.get("output_top_logprobs") or []),
        [len(x or ()) for x in both.get("output_top_logprobs") or []],
    )
    for name in ("input_token_logprobs", "output_token_logprobs"):
        assert [entry[1] for entry in both[name]] == [entry[1] for entry in alone[name]]
        assert all(abs((a[0] or 0) - (b[0] or 0)) < 1e-4 for a, b in zip(both[name], alone[name], strict=True))
    for a, b in zip(both["output_top_logprobs"], alone["output_top_logprobs"], strict=True):
        assert [word for _, word, _ in a] == [word for _, word, _ in b]


def test_try_things(pair: Pair, shared_server: SharedServer) -> None:
    for more in ({"top_p": 0.8, "top_k": 5}, {"stop_token_ids": [7]}, {"n": 2}, {"temperature": 0.0}):
        try:
            answer = generate(pair, 3, 12, PROMPT, **more)
            alone = generate(shared_server, 3, 12, PROMPT, **more)
            one, other = (x[0] if isinstance(x, list) else x for x in (answer, alone))
            print("TRY", more, tokens_of(one) == tokens_of(other), type(answer))
        except Exception as error:
            print("TRY", more, repr(error)[:300])
    for mask in (True,):
        params = {"max_new_tokens": 6, "temperature": 1.0, "sampling_seed": 3, "top_k": 4}
        body = {"input_ids": PROMPT, "sampling_params": params, "return_logprob": True, "return_sampling_mask": True}
        from rlscale.config.request_headers import SAMPLING_SUPPORT_HEADER, TRAJECTORY_HEADER

        for url, key in ((pair.url, KEY), (shared_server.url, shared_server.api_key)):
            try:
                said = call(
                    url,
                    "/generate",
                    key,
                    body,
                    headers={SAMPLING_SUPPORT_HEADER: "1", TRAJECTORY_HEADER: "x"},
                    timeout=60,
                )["meta_info"]
                print("MASK", {k: v for k, v in said.items() if "mask" in k or "sampling" in k})
            except Exception as error:
                print("MASK", repr(error)[:300])
    try:
        print(
            "CHAT",
            str(
                call(
                    pair.url,
                    "/v1/chat/completions",
                    KEY,
                    {"model": "x", "messages": [{"role": "user", "content": "1"}], "max_tokens": 5},
                    timeout=60,
                )
            )[:300],
        )
    except Exception as error:
        print("CHAT", repr(error)[:300])
    from rlscale.serve.paired import ALONE

    try:
        print(
            "PREFILL ALONE",
            str(
                call(
                    pair.engines[Role.prefill].url,
                    "/generate",
                    KEY,
                    {
                        "input_ids": PROMPT,
                        "sampling_params": {"max_new_tokens": 1, "sampling_seed": 0},
                        "return_logprob": True,
                        "logprob_start_len": 0,
                        **ALONE,
                    },
                    timeout=30,
                )
            )[:600],
        )
    except Exception as error:
        print("PREFILL ALONE", repr(error)[:300])
