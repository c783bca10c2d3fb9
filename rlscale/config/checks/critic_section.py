"""Is the critic's section read, does it agree with the policy's where both share something, and does its model fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.learning_rate import schedule_is_consistent, schedule_problems
from rlscale.config.checks.model_fits import model_has_one_origin
from rlscale.config.checks.other_models import other_model_fits
from rlscale.config.composition.command_line_text import shown
from rlscale.config.composition.differences import differences
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.keys import plain
from rlscale.config.schema import Config
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.families import FAMILIES

FOLLOWING = ("model", "optim", "trainer")
"""Sections of the critic whose values are the policy's until they are set."""


def own_values(config: Config) -> dict[str, tuple[Any, Any]]:
    """Keys of the critic that are not as they are by default, with that (the policy's) and their own value."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in FOLLOWING:
        if getattr(config, name) == getattr(config.critic, name):
            continue
        policy, critic = plain(getattr(config, name)), plain(getattr(config.critic, name))
        found.update(differences(policy, critic, f"{name}."))
        for key, old in _left_out(policy, critic, f"{name}."):
            found[key] = (old, None)
    default = _default()
    for name in (item.name for item in dataclasses.fields(default) if item.name not in FOLLOWING):
        found.update(differences({name: getattr(default, name)}, {name: getattr(config.critic, name)}))
    return found


@functools.cache
def _default() -> CriticConfig:
    return CriticConfig()


def critic_is_used(context: CheckContext) -> Iterator[str]:
    """Without a critic, nothing of its section is read."""
    if context.needs.critic:
        return
    for key, (_, value) in own_values(context.config).items():
        yield (
            f"critic.{key}={shown(value)} is never read: algo={context.config.algo.name} has no critic; leave it out, "
            "or choose algo/advantage=gae"
        )


def critic_shares_with_the_policy(context: CheckContext) -> Iterator[str]:
    """What both use must be the same for both."""
    config = context.config
    if not context.needs.critic:
        return
    own = own_values(config)
    for one in context.keys:
        if one.about.shared is not None and one.name in own:
            ours, theirs = own[one.name]
            yield (
                f"critic.{one.name}={shown(theirs)} differs from {one.name}={shown(ours)}, but {one.about.shared}; "
                f"leave it out, and set {one.name} for both"
            )
    describing = [one.name for one in context.keys if one.about.describes]
    if not any(key.startswith("model.") and key not in describing for key in own):
        for key in (key for key in describing if key in own):
            yield (
                f"critic.{key}={shown(own[key][1])} is never read, because the critic's model is the policy's; "
                "leave it out, or give critic.model.path"
            )


def critic_is_trained_in_time(context: CheckContext) -> Iterator[str]:
    """Its schedule is consistent, and its warm-up leaves something to the policy."""
    config, total = context.config, context.sizes.total_steps
    if not context.needs.critic:
        return
    warmup = config.critic.warmup_iterations
    if warmup >= config.run.iterations:
        context.notes.append(
            f"critic.warmup_iterations={warmup}: the run's {config.run.iterations} iterations end before the policy "
            "makes a step"
        )
    follows = config.critic.optim == config.optim
    said = follows and any(schedule_is_consistent(dataclasses.replace(context, notes=[])))  # of the policy, already
    if not said:
        notes = [] if follows else context.notes
        yield from schedule_problems(config.critic.optim, "critic.optim", total, notes)


def critic_model_fits(context: CheckContext) -> Iterator[str]:
    """A model of its own must be one that the trainer knows, and be cut over the ranks as the policy is."""
    config = context.config
    if not context.needs.critic or config.critic.model == config.model:
        return
    both = model_has_one_origin(
        CheckContext(dataclasses.replace(config, model=config.critic.model), context.sizes, None)
    )
    yield from (f"critic.{line.replace(' and model.', ' and critic.model.')}" for line in both)
    yield from other_model_fits(context, config.critic.model, "critic.model")


def critic_has_a_form(context: CheckContext) -> Iterator[str]:
    """A critic is saved as a token classifier of transformers, which some families do not have."""
    if not context.needs.critic:
        return
    try:
        architecture = read_architecture(context.config.critic.model)
    except UserError:
        return  # its own check says what is wrong
    family = FAMILIES.get(str((architecture or {}).get("model_type")))
    if family is not None and family.value_class is None:
        yield (
            f"critic.model: transformers has no token classifier of model_type={family.model_type}, so a critic of it "
            "could not be saved; give critic.model.path of another family, or choose an algorithm without a critic"
        )


def _left_out(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Keys of open mappings (options of Megatron) that only the policy has, with its value."""
    for key, old in before.items():
        if key not in after:
            yield prefix + key, old
        elif isinstance(old, Mapping) and isinstance(after[key], Mapping):
            yield from _left_out(old, after[key], f"{prefix}{key}.")


CRITIC_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    critic_is_used,
    critic_shares_with_the_policy,
    critic_is_trained_in_time,
    critic_model_fits,
    critic_has_a_form,
)
