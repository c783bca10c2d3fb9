"""Checks of the sections that the policy and a critic both have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.derived.needs import Needs
from rlscale.config.schema import Config
from rlscale.config.schema.critic_config import CriticConfig

Sections = Config | CriticConfig
"""What has the sections `model`, `optim` and `trainer`."""


def of_policy_and_critic(config: Config, problems: Callable[[Sections, str], Iterator[str]]) -> Iterator[str]:
    """The policy's problems, then those that a critic has of its own.

    `problems(sections, prefix)` are those of one model, `prefix` before each of its keys. What is wrong with the
    policy's values too is said once, of the policy: by default the critic's follow them.
    """
    yield from problems(config, "")
    if Needs.of(config).critic:
        followed = set(problems(config, "critic."))
        yield from (line for line in problems(config.critic, "critic.") if line not in followed)
