"""A real SGLang server on the CPU: right log-probs, seeds, weights, control calls."""

from __future__ import annotations

import base64
import functools
import json
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shared_server import SharedServer
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.serve.http import CallError, call
from rlscale.serve.ports import free_port
from rlscale.serve.receiver import EngineReceiver

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


class MappedFile:
    """Pickles as a call of torch.from_file, so the engine maps the file instead of being sent its bytes."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size

    def __reduce__(self) -> tuple:
        return functools.partial(torch.from_file, str(self.path), shared=True, size=self.size, dtype=torch.uint8), ()


def send_file(receiver: EngineReceiver, model: PreTrainedModel, version: int, path: Path) -> None:
    """All weights as one flat bucket in a file that the engine maps."""
    flat, metadata, start = [], [], 0
    for name, tensor in named(model):
        piece = tensor.contiguous().flatten().view(torch.uint8)
        span = {"start_idx": start, "end_idx": start + piece.numel(), "numel": piece.numel()}
        metadata.append(SimpleNamespace(name=name, shape=tensor.shape, dtype=tensor.dtype, **span))
        flat.append(piece)
        start += piece.numel()
    torch.cat(flat).numpy().tofile(path)
    bucket = {"flattened_tensor": MappedFile(path, start), "metadata": metadata}
    receiver.receive_tensors([base64.b64encode(pickle.dumps(bucket)).decode()], "flattened_bucket", version, True)


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
    send_file(receiver, model, 2, folder / "weights.bin")


def update_by_broadcast(receiver: EngineReceiver, model: PreTrainedModel, folder: Path) -> None:
    """Rank 0 of a gloo group is a thread of this process."""
    port = free_port("127.0.0.1")
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=True, wait_for_workers=False)
    weights = named(model)
    dtypes = [str(tensor.dtype).removeprefix("torch.") for _, tensor in weights]
    shapes = [list(tensor.shape) for _, tensor in weights]
    joined: list[Any] = []

    def join() -> None:
        prefixed = torch.distributed.PrefixStore("weights-2", store)
        joined.append(torch.distributed.ProcessGroupGloo(prefixed, 0, 2, timedelta(seconds=60)))

    in_background(join, lambda: receiver.open_group("127.0.0.1", port, 1, 2, "weights-2", "gloo"))

    def broadcast() -> None:
        for _, tensor in weights:
            joined[0].broadcast([tensor.contiguous()], torch.distributed.BroadcastOptions()).wait()

    names = [name for name, _ in weights]
    in_background(broadcast, lambda: receiver.receive_broadcast(names, dtypes, shapes, "weights-2", 2, True))
    receiver.close_group("weights-2")


def in_background(task: Callable[[], None], work: Callable[[], None]) -> None:
    """Do `work` while `task` runs in a thread; both must end well."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(task)
        work()
        future.result(60)


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


def test_paused_requests_continue_under_the_new_weights(shared_server: SharedServer, receiver: EngineReceiver) -> None:
    second = sharpened(shared_server, 2)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, shared_server, 11, 400)
        time.sleep(0.3)
        receiver.pause()
        time.sleep(0.2)
        assert not running.done()
        send_plain(receiver, second, 2)
        receiver.continue_()
        answer = running.result(60)
    spans = answer["meta_info"]["weight_versions"]
    assert [span["version"] for span in spans] == ["1", "2"], spans
    logprobs, tokens = zip(*[(lp, t) for lp, t, _ in answer["meta_info"]["output_token_logprobs"]], strict=True)
    assert len(tokens) == 400
    with torch.no_grad():
        reference = second(torch.tensor([[*PROMPT, *tokens]])).logits[0].log_softmax(-1)
    last = reference[len(PROMPT) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])[-50:, 0]
    assert (last - torch.tensor(logprobs[-50:])).abs().max() < 1e-4


def test_abort_answers_with_the_tokens_so_far(shared_server: SharedServer, receiver: EngineReceiver) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, shared_server, 12, 480)
        time.sleep(0.3)
        receiver.abort_all()
        answer = running.result(30)
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert 0 < answer["meta_info"]["completion_tokens"] < 480


def test_memory_and_cache_calls_leave_a_working_engine(
    shared_server: SharedServer, receiver: EngineReceiver, first: PreTrainedModel
) -> None:
    receiver.release_memory()
    receiver.resume_memory()
    receiver.flush_cache()
    send_plain(receiver, first, 1)
    assert difference(first, generate(shared_server, 3)) < 1e-4
    assert receiver.health()


def test_an_engine_is_closed_to_strangers(shared_server: SharedServer) -> None:
    for key in (None, "wrong"):
        with pytest.raises(CallError, match="status 401"):
            EngineReceiver(shared_server.url, key).abort_all()
    assert json.dumps(shared_server.api_key) not in shared_server.log.read_text()
    assert threading.active_count() < 50
