"""A transport of weights that does not reach the engines is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

TURNS = (
    "weights/transport=shared_memory",
    *("weights.max_engines_at_once=2", "rollout.engines=4"),
    *("cluster.placement=disaggregated", "rollout.max_staleness=1"),
)
"""Of four engines two at a time."""
APART = "cluster.placement=disaggregated"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["weights/transport=cuda_ipc"], "CUDA IPC needs cluster.device=cuda"),
        (
            ["weights/transport=shared_memory", APART, "rollout.engine_urls=['http://192.0.2.7:1']"],
            "http://192.0.2.7:1 is on another machine, and shares no memory with the trainer",
        ),
        (["rollout.engine_urls=['http://192.0.2.7:1']"], "choose weights/transport=broadcast, or disk with"),
        (["weights/transport=disk", "weights.transport.keep=0"], "weights.transport.keep=0: must be a whole number"),
        (
            ["weights/transport=delta", "+rollout.sglang.tokenizer_worker_num=2"],
            "rollout.sglang.tokenizer_worker_num=2: SGLang's further processes do not know the call that patches",
        ),
        (
            ["weights/transport=delta", "rollout.engine_groups.large.sglang.tokenizer_worker_num=2"],
            "rollout.engine_groups.large.sglang.tokenizer_worker_num=2: SGLang's further processes do not know",
        ),
        (["weights/transport=delta", "weights.transport.encoding=zip"], "encoding=zip: use xor or overwrite"),
        (
            ["weights/transport=disk", "weights.transport.folder_on_engines=/there"],
            "name a weights.transport.folder as well",
        ),
        (
            ["weights.verify_tensors=2", "rollout.weights=fp8_tensor"],
            "weights.verify_tensors=2: engines of rollout.weights=fp8_tensor hold codes; set it to 0",
        ),
        (
            ["weights.verify_tensors=2", "model.lora={rank: 4}", "weights.lora=adapter"],
            "weights.verify_tensors=2: engines of weights.lora=adapter are sent no whole tensor; set it to 0",
        ),
        (
            ["weights.verify_tensors=2", "run.generate_only=true", "rollout.store=all"],
            "weights.verify_tensors=2: no engine of run.generate_only=true is given weights; set it to 0",
        ),
        (
            list(TURNS[1:]),
            "a broadcast goes to all engines at once; choose weights/transport=shared",
        ),
        ([*TURNS, "rollout.engines=2"], "there are no more than rollout.engines=2; leave it out"),
        (
            [TURNS[0], TURNS[1], *TURNS[3:], "rollout.engine_urls=['http://127.0.0.1:1']"],
            "engines of rollout.engine_urls that rlscale did not start keep keys and values of old weights while they "
            "are paused, and it has not been tried with those that it did; leave it out",
        ),
        (
            [TURNS[0], TURNS[1], *TURNS[3:], "rollout.engine_groups.all.engines=4"],
            "engines of rollout.engine_groups have not been tried with it; leave it out",
        ),
        ([*TURNS, "rollout.concurrency=adaptive"], "rollout.concurrency=adaptive forgets how many requests"),
        (
            [*TURNS[1:], "model.lora={}", "weights.lora=adapter"],
            "requests name the adapter of their version, which all engines change together",
        ),
        (["weights.max_engines_at_once=2", "rollout.engines=4"], "nobody generates on devices that the trainer has"),
        ([*TURNS, "rollout.max_staleness=0"], "with rollout.max_staleness=0 nothing is generated during a sync"),
    ],
)
def test_a_way_that_does_not_lead_to_the_engines_is_one_line(
    problems: Callable[..., list[str]], overrides: list[str], line: str
) -> None:
    found = problems(*overrides)
    assert len(found) == 1
    assert line in found[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["weights/transport=disk", "rollout.engine_urls=['http://192.0.2.7:1']"],
        ["weights/transport=broadcast", "rollout.engine_urls=['http://192.0.2.7:1']"],
        ["weights/transport=shared_memory", "rollout.engine_urls=['http://127.0.0.1:1']"],
        ["weights.verify_tensors=1"],
        list(TURNS),
    ],
)
def test_a_way_that_leads_there_is_taken(problems: Callable[..., list[str]], overrides: list[str]) -> None:
    assert problems(*overrides) == []
