"""What finished groups were made of: a run whose data or rewards are others by now must not train on them.

Between a kill and the next start of the same configuration, rows of a file or the code of a
reward may have been mended.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlscale.config.schema.component import TARGET
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.prompts.sources import PromptSource
from rlscale.envs.rewards_by_source import own_rewards
from rlscale.rollout.group_records import UNKNOWN, Origin
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.state_encoding import Encoder, NotPlain


def origin_of(spec: RolloutSpec, source: PromptSource) -> Origin:
    """Of the source (before it has given anything: size, content), of what the configuration says of rewards, and of
    the files that its own classes and functions are in. Not of what those files import."""
    judges = {"": spec.reward, **own_rewards(spec.data)}
    said = {
        "rewards": {name: _judgement(one) for name, one in sorted(judges.items())},
        "overlong": asdict(spec.overlong),
        "env": spec.env,
        "agent": asdict(spec.agent),
    }
    state = hashlib.blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=len(UNKNOWN))
    with suppress(NotPlain):  # then no checkpoint can be written of it either, which is said there
        state.update(Encoder(lambda array: state.update(bytes(array))).encode(source.state_dict()))
    for file in sorted({file for target in _targets(said) if (file := _file_of(target)) is not None}):
        state.update(Path(file).read_bytes())
    return Origin(state.digest())


def _judgement(reward: RewardConfig) -> list[Any]:
    """What of a reward decides on scores; the rest says how they are computed."""
    return [reward.function, reward.group_function, reward.crash_score]


def _targets(node: Any) -> Iterator[str]:
    """The dotted paths that a configuration names, and that are not of this package."""
    if isinstance(node, Mapping):
        target = node.get(TARGET)
        if isinstance(target, str) and not target.startswith("rlscale."):
            yield target
        node = [*node.values()]
    if isinstance(node, list | tuple):
        for inner in node:
            yield from _targets(inner)


def _file_of(target: str) -> str | None:
    """The file of the module that a dotted path leads through; None where there is none."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.util.find_spec(".".join(parts[:cut]))
        except (ImportError, ValueError):
            continue
        if found is not None and found.has_location:
            return found.origin
    return None
