"""Is there a choice of experts to replay, and a router that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.expert_routing import replay_without_experts
from rlscale.config.schema.algo_config import OldLogprobs
from rlscale.config.schema.trainer_config import RoutingReplay


def replay_has_experts(context: CheckContext) -> Iterator[str]:
    """A dense model has no choice of experts to repeat."""
    mode = context.config.trainer.routing_replay
    if mode is RoutingReplay.none or context.architecture is None or context.experts:
        return
    yield replay_without_experts(mode.name, context.config.model.name)


def replay_has_a_source(context: CheckContext) -> Iterator[str]:
    """The choice was made before: by an engine, or in the pass for the old log-probs."""
    algo, mode = context.config.algo, context.config.trainer.routing_replay
    if mode is RoutingReplay.none:
        return
    key = f"trainer.routing_replay={mode.name}"
    if context.supervised:
        yield f"{key}: supervised training has no earlier pass or engine whose routing it could repeat; use none"
    elif mode is RoutingReplay.recorded and algo.correction.bypass:
        yield (
            f"{key} repeats the routing of the pass for the old log-probs, which algo.correction.bypass=true leaves "
            "out; use rollout, or none"
        )
    elif mode is RoutingReplay.recorded and algo.old_logprobs is OldLogprobs.behaviour:
        yield (
            f"{key} repeats the routing of one pass, but algo.old_logprobs=behaviour makes one for each version of the "
            "weights; use rollout, or none"
        )
    elif mode is RoutingReplay.recorded and not context.needs.makes("old_logprobs"):
        yield (
            f"{key} repeats the routing of the pass for the old log-probs, which is not made with one step and one "
            "epoch per iteration; use rollout or none, or algo.old_logprobs=always"
        )


def replay_is_the_policys(context: CheckContext) -> Iterator[str]:
    """The critic's experts are its own."""
    config = context.config
    mode = config.critic.trainer.routing_replay
    if context.needs.critic and mode is not config.trainer.routing_replay:
        yield (
            f"critic.trainer.routing_replay={mode.name} is never read: only the policy's routing is repeated; leave it "
            "out"
        )


ROUTING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    replay_has_experts,
    replay_has_a_source,
    replay_is_the_policys,
)
