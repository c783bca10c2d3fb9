"""Runs that are half a run: on stored rollouts without engines, or generating without a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.rollout_config import RolloutConfig, Store

_SERVICE = RolloutConfig()._target_


def replay_stands_alone(context: CheckContext) -> Iterator[str]:
    """A replay has no engines, so nothing may ask for them."""
    config, rollout = context.config, context.config.rollout
    if rollout.replay is None or context.supervised:
        return
    if config.eval.enabled:
        yield f"rollout.replay={rollout.replay}: there are no engines to evaluate with; set eval.enabled=false"
    if config.run.generate_only:
        yield "run.generate_only=true and rollout.replay leave nothing to do; choose one of them"
    if rollout.store is not Store.none:
        yield f"rollout.store={rollout.store.name} would store again what rollout.replay reads; set it to none"
    if rollout.engine_urls:
        yield "rollout.engine_urls is not read with rollout.replay, which generates nothing; leave it out"
    if rollout._target_ != _SERVICE:
        yield f"rollout._target_={rollout._target_} is not used with rollout.replay, a service of its own; leave it out"


def what_is_generated_is_stored(context: CheckContext) -> Iterator[str]:
    """Generating alone is for what it leaves behind."""
    config = context.config
    if not config.run.generate_only or context.supervised or config.rollout.replay is not None:
        return
    if config.rollout.store is Store.none:
        yield "run.generate_only=true keeps nothing with rollout.store=none; set rollout.store=all"
    if config.rollout.engine_urls:
        yield (
            "run.generate_only=true needs engines that hold the model's weights, which rollout.engine_urls may not; "
            "leave it out"
        )
    if config.eval.enabled:
        context.notes.append("eval is not read with run.generate_only=true; python -m rlscale eval measures a model")


STORED_ROLLOUTS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    replay_stands_alone,
    what_is_generated_is_stored,
)
