"""A real SGLang server on the CPU: right log-probs, seeds, weights, control calls."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_server import SharedServer, wait_until_generating
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.platform.ports import free_port
from rlscale.serve.engine_profile import begin_profile, end_profile
from rlscale.serve.http import CallError, call
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.standstill import Standstill, ask_engine
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.broadcast import join_group

PROMPT = [5, 9, 3, 12, 7, 7, 4, 10, 6, 3]
Named = list[tuple[str, torch.Tensor]]


def generate(
    server: SharedServer, seed: int | None, tokens: int = 24, prompt: Sequence[int] = PROMPT, **sampling: Any
) -> Any:
    """The engine's answer to one request; `sampling` overrides its sampling parameters."""
    params = {"max_new_tokens": tokens, "temperature": 1.0, "ignore_eos": True, "sampling_seed": seed, **sampling}
    body = {"input_ids": list(prompt), "sampling_params": params, "return_logprob": True}
    return call(server.url, "/generate", server.api_key, body, timeout=60)


def tokens_of(answer: Any) -> list[int]:
    return [token for _, token, _ in answer["meta_info"]["output_token_logprobs"]]


def difference(model: PreTrainedModel, answer: Any, prompt: Sequence[int] = PROMPT, temperature: float = 1.0) -> float:
    """Largest |engine - HF| log-prob over the generated tokens."""
    pairs = [(logprob, token) for logprob, token, _ in answer["meta_info"]["output_token_logprobs"]]
    tokens = [token for _, token in pairs]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].float() / temperature
    reference = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return (reference - torch.tensor([logprob for logprob, _ in pairs])).abs().max().item()


def sharpened(server: SharedServer, seed: int) -> PreTrainedModel:
    """The server's model with weights of its own, spread enough that log-probs tell models apart."""
    model = AutoModelForCausalLM.from_pretrained(server.model_folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.15, generator=generator)
    return model


def named(model: PreTrainedModel) -> Named:
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def send_plain(receiver: EngineReceiver, model: PreTrainedModel, version: int) -> None:
    """All weights in two buckets of pickled lists."""
    weights = named(model)
    for part, last in ((weights[:7], False), (weights[7:], True)):
        receiver.receive_tensors([base64.b64encode(pickle.dumps(part)).decode()], None, version, last)


@pytest.fixture(scope="module")
def first(shared_server: SharedServer) -> PreTrainedModel:
    """The model whose weights the engine has at the start of the tests that ask for it."""
    return sharpened(shared_server, 1)


@pytest.fixture
def receiver(shared_server: SharedServer, first: PreTrainedModel) -> EngineReceiver:
    receiver = shared_server.receiver()
    send_plain(receiver, first, 1)
    return receiver


def test_logprobs_of_generated_tokens_agree_with_hugging_face(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    assert difference(first, generate(shared_server, 3, tokens=64)) < 1e-4
    assert difference(first, generate(shared_server, 4, temperature=0.7), temperature=0.7) < 1e-4
    assert difference(first, generate(shared_server, 5, temperature=0.0)) < 1e-4


def test_logprobs_of_a_prompt_agree_with_hugging_face(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    body = {
        "input_ids": PROMPT,
        "sampling_params": {"max_new_tokens": 1, "temperature": 1.0, "sampling_seed": 1},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    answer = call(shared_server.url, "/generate", shared_server.api_key, body, timeout=60)
    got = torch.tensor([logprob for logprob, _, _ in answer["meta_info"]["input_token_logprobs"][1:]])
    with torch.no_grad():
        logprobs = first(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    want = logprobs[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0]
    assert (got - want).abs().max() < 1e-4


def test_the_same_seed_gives_the_same_tokens_alone_and_in_a_batch(
    shared_server: SharedServer, receiver: EngineReceiver
) -> None:
    alone = {seed: tokens_of(generate(shared_server, seed)) for seed in (7, 8)}
    assert tokens_of(generate(shared_server, 7)) == alone[7]
    assert alone[7] != alone[8]
    with ThreadPoolExecutor(8) as pool:
        batch = list(pool.map(lambda seed: tokens_of(generate(shared_server, seed)), [7, 8, 1, 7, 2, 8, 3, 7]))
    assert [batch[i] for i in (0, 3, 7)] == [alone[7]] * 3
    assert [batch[i] for i in (1, 5)] == [alone[8]] * 2
    nucleus = [tokens_of(generate(shared_server, 7, top_p=0.9, top_k=8)) for _ in range(2)]
    assert nucleus[0] == nucleus[1]
    own: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"top_p": 0.9, "top_k": 8}, {}]
    common = {"max_new_tokens": 24, "temperature": 1.0, "ignore_eos": True}
    params = [{**common, "sampling_seed": seed, **one} for seed, one in zip((7, 7, 7, 8), own, strict=True)]
    body = {"input_ids": [PROMPT] * len(params), "sampling_params": params, "return_logprob": True}
    mixed = call(shared_server.url, "/generate", shared_server.api_key, body, timeout=60)
    assert [tokens_of(answer) for answer in mixed[::2]] == [alone[7], nucleus[0]]
    assert tokens_of(mixed[3]) == alone[8]


def test_tokens_are_drawn_with_their_probabilities(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    with torch.no_grad():
        probabilities = first(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    with ThreadPoolExecutor(32) as pool:
        drawn = list(pool.map(lambda seed: tokens_of(generate(shared_server, seed, tokens=1))[0], range(600)))
    counts = torch.bincount(torch.tensor(drawn), minlength=len(probabilities)).double()
    expected = 600 * probabilities.double()
    often = expected >= 5
    statistic = ((counts - expected) ** 2 / expected)[often].sum().item()
    freedom = int(often.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, (statistic, freedom)


def test_unseeded_requests_differ_and_min_p_is_refused_while_the_server_lives_on(
    shared_server: SharedServer, receiver: EngineReceiver
) -> None:
    assert tokens_of(generate(shared_server, None)) != tokens_of(generate(shared_server, None))
    with pytest.raises(CallError, match="min_p"):
        generate(shared_server, 1, min_p=0.1)
    assert len(tokens_of(generate(shared_server, 1))) == 24


def update_by_lists(receiver: EngineReceiver, model: PreTrainedModel, folder: Path) -> None:
    send_plain(receiver, model, 2)


def update_by_file(receiver: EngineReceiver, model: PreTrainedModel, folder: Path) -> None:
    """One flat bucket in shared memory that the engine maps."""
    entries, size = flat_bucket.contents(named(model))
    shared = flat_bucket.SharedBytes(size)
    flat_bucket.fill(shared.flat, named(model), entries)
    try:
        receiver.receive_tensors([flat_bucket.dump(shared.reader(), entries)], flat_bucket.LOAD_FORMAT, 2, True)
    finally:
        shared.remove()


def update_by_broadcast(receiver: EngineReceiver, model: PreTrainedModel, folder: Path) -> None:
    """Rank 0 of a gloo group is this process; the engine's calls wait for it and it for them."""
    port = free_port("127.0.0.1")
    weights = named(model)
    names = [name for name, _ in weights]
    dtypes = [str(tensor.dtype).removeprefix("torch.") for _, tensor in weights]
    shapes = [list(tensor.shape) for _, tensor in weights]
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(receiver.open_group, "127.0.0.1", port, 1, 2, "weights-2", "gloo")
        group = join_group("127.0.0.1", port, 0, 2, "weights-2", "gloo", 30.0)
        opened.result(30)
        received = pool.submit(receiver.receive_broadcast, names, dtypes, shapes, "weights-2", 2, True)
        for work in [group.broadcast(tensor.contiguous(), 0) for _, tensor in weights]:
            work.wait()
        received.result(30)
        receiver.close_group("weights-2")


@pytest.mark.parametrize("update", [update_by_lists, update_by_file, update_by_broadcast])
def test_an_update_makes_the_engines_logprobs_those_of_the_new_model(
    shared_server: SharedServer,
    receiver: EngineReceiver,
    first: PreTrainedModel,
    tmp_path: Path,
    update: Callable[[EngineReceiver, PreTrainedModel, Path], None],
) -> None:
    before = generate(shared_server, 3)
    assert difference(first, before) < 1e-4
    assert before["meta_info"]["weight_version"] == "1"
    second = sharpened(shared_server, 2)
    update(receiver, second, tmp_path)
    after = generate(shared_server, 3)
    assert difference(second, after) < 1e-4
    assert difference(first, after) > 0.1
    assert after["meta_info"]["weight_version"] == receiver.weight_version() == "2"


def test_an_aborted_request_goes_on_under_the_new_weights(
    shared_server: SharedServer, receiver: EngineReceiver
) -> None:
    second = sharpened(shared_server, 2)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(generate, shared_server, 11, 400)
        wait_until_generating(shared_server.url, shared_server.api_key)
        receiver.pause("abort")
        partial = running.result(10)
        assert partial["meta_info"]["finish_reason"]["type"] == "abort"
        kept = tokens_of(partial)
        assert 0 < len(kept) < 400
        late = pool.submit(generate, shared_server, 11, 50, [*PROMPT, *kept])
        time.sleep(0.2)
        assert not late.done(), "a paused engine lets new requests wait"
        send_plain(receiver, second, 2)
        receiver.continue_()
        answer = late.result(30)
    assert difference(second, answer, [*PROMPT, *kept]) < 1e-4
    assert answer["meta_info"]["weight_version"] == "2"


def test_a_request_kept_in_place_ends_with_the_versions_of_its_tokens(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, shared_server, 11, 400)
        wait_until_generating(shared_server.url, shared_server.api_key)
        receiver.pause("in_place")
        time.sleep(0.2)
        assert not running.done()
        send_plain(receiver, sharpened(shared_server, 2), 2)
        receiver.continue_()
        answer = running.result(30)
    assert answer["meta_info"]["completion_tokens"] == 400
    spans = answer["meta_info"]["weight_versions"]
    assert [span["version"] for span in spans] == ["1", "2"]


def test_abort_answers_with_the_tokens_so_far(shared_server: SharedServer, receiver: EngineReceiver) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, shared_server, 12, 480)
        wait_until_generating(shared_server.url, shared_server.api_key)
        receiver.abort_all()
        answer = running.result(30)
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert 0 < answer["meta_info"]["completion_tokens"] < 480


def test_it_tells_that_it_makes_passes(shared_server: SharedServer, receiver: EngineReceiver) -> None:
    """By which one that computes is told from one that computes and gets nowhere."""
    standstill = Standstill()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, shared_server, 12, 480)
        wait_until_generating(shared_server.url, shared_server.api_key)
        for _ in range(2):
            ask_engine(shared_server.url, shared_server.api_key, 60.0, standstill)
        receiver.abort_all()
        running.result(30)
    assert standstill.worked


def test_memory_and_cache_calls_leave_a_working_engine(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    receiver.release_memory()
    receiver.resume_memory()
    receiver.flush_cache()
    send_plain(receiver, first, 1)
    assert difference(first, generate(shared_server, 3)) < 1e-4
    assert receiver.health()


@pytest.mark.parametrize("steps", [3, 1000])
def test_an_engine_writes_a_trace_of_its_first_passes_at_the_last_or_when_it_is_told_to(
    shared_server: SharedServer, steps: int, tmp_path: Path
) -> None:
    url, key = shared_server.url, shared_server.api_key
    begin_profile(url, key, tmp_path, "iteration_000003.engine-0", steps, gpu=False, timeout_s=60.0)
    generate(shared_server, 1, tokens=8)
    end_profile(url, key, timeout_s=60.0)
    end_profile(url, key, timeout_s=60.0)  # which has nothing more to write
    (file,) = tmp_path.iterdir()
    assert file.name == "iteration_000003.engine-0-TP-0.trace.json.gz"
    with gzip.open(file) as trace:
        names = [event.get("name") for event in json.load(trace)["traceEvents"]]
    assert "aten::mm" in names or "aten::linear" in names


def test_an_engine_is_closed_to_strangers(shared_server: SharedServer) -> None:
    for key in (None, "wrong"):
        with pytest.raises(CallError, match="status 401"):
            EngineReceiver(shared_server.url, key).abort_all()
    assert json.dumps(shared_server.api_key) not in shared_server.log.read_text()
