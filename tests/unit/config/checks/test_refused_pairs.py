"""What cannot be combined: ways of serving the policy that are each fine alone, two at a time."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

APART = ["cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=4", "rollout.max_staleness=1"]
"""Four GPUs for engines."""
WAYS = {
    "roles": ["rollout.engine_groups={reads: {role: prefill}, writes: {role: decode, engines: 3}}"],
    "groups": ["rollout.engine_groups={small: {engines: 2}, large: {gpus_per_engine: 2}}"],
    "speculation": ["rollout.speculation.algorithm=ngram"],
    "draft": ["rollout.speculation={algorithm: eagle, draft: nobody/no-such-draft}"],
    "waves": ["weights.max_engines_at_once=1", "weights/transport=disk"],
    "adaptive": ["rollout.concurrency=adaptive"],
    "adapters": ["model.lora={rank: 4}", "weights.lora=adapter"],
    "evaluation": ["eval.engines=1"],
    "codes": ["rollout.weights=int4", "model.dtype=bfloat16"],
    "delta": ["weights/transport=delta"],
    "joining": ["rollout.engines_at_most=8", "rollout.engine_key_file=key"],
}


@pytest.mark.parametrize(
    ("one", "other", "wrong"),
    [
        ("roles", "speculation", "algorithm=ngram: rollout.engine_groups with prefill and decode have not been tried"),
        ("roles", "waves", "max_engines_at_once=1: engines of rollout.engine_groups have not been tried with it"),
        ("roles", "adaptive", "with prefill and decode: rollout.concurrency=adaptive reads the cache of whole"),
        ("roles", "adapters", "with prefill and decode: weights.lora=adapter has not been tried"),
        ("roles", "evaluation", "rollout.engine_groups + eval.engines=1: need 5 GPUs, but the cluster has 4"),
        ("groups", "waves", "max_engines_at_once=1: engines of rollout.engine_groups have not been tried with it"),
        ("groups", "evaluation", "rollout.engine_groups + eval.engines=1: need 5 GPUs, but the cluster has 4"),
        ("draft", "waves", "algorithm=eagle: from a folder SGLang would load the draft, too"),
        ("draft", "adapters", "algorithm=eagle: weights.lora=adapter has not been tried with it"),
        ("waves", "adaptive", "max_engines_at_once=1: rollout.concurrency=adaptive forgets how many requests"),
        ("codes", "adapters", "weights=int4: the trainer does not know what merged codes are worth"),
        ("codes", "draft", "algorithm=eagle: rollout.weights=int4: the draft is not in that form"),
        ("codes", "joining", "no engine can join a run with rollout.weights=int4"),
        ("delta", "adapters", "DeltaTransport carries whole weights, and an adapter has a way of its own"),
        ("delta", "draft", "algorithm=eagle: from a folder SGLang would load the draft, too"),
        ("joining", "adapters", "no engine can join a run with weights.lora=adapter"),
        ("joining", "speculation", "no engine can join a run with rollout.speculation"),
        ("joining", "waves", "no engine can join a run with weights.max_engines_at_once"),
        ("waves", "adapters", "max_engines_at_once=1: requests name the adapter of their version"),
    ],
)
def test_two_ways_that_do_not_go_together_are_refused_by_name(one: str, other: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(compose(None, [*APART, *_number(one, other, of=4), *WAYS[one], *WAYS[other]]))
    assert [problem for problem in raised.value.problems if wrong in problem], raised.value.problems


@pytest.mark.parametrize("way", WAYS)
def test_each_of_them_goes_alone(way: str) -> None:
    check(compose(None, [*APART, *_number(way, of=3), *WAYS[way]]))


def _number(*ways: str, of: int) -> list[str]:
    """As many engines; groups have numbers of their own."""
    return [] if {"roles", "groups"} & {*ways} else [f"rollout.engines={of}"]
