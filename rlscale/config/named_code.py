"""The code that a configuration names: classes and functions, and commands. Nothing is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.config.foreign_code import places_of, refusal_of
from rlscale.config.own_targets import PACKAGE
from rlscale.config.schema import Config
from rlscale.config.schema.section import SCALARS, Section, fields_of
from rlscale.config.target_key import TARGET

_SANDBOX = "sandbox"
"""The argument of what runs programs that the policy writes: `none` runs them without one."""


def refused_targets(config: Config) -> list[str]:
    """A line for each `_target_` in a configuration that may not be run."""
    named = dict(_targets(_texts(config, "")))
    return [f"{key}={target}: {why}" for key, target in named.items() if (why := refusal_of(target)) is not None]


@dataclass(frozen=True)
class Named:
    """Something in a configuration that runs code, or hands on what is not the configuration's own."""

    key: str
    """Dotted."""
    value: str | bool | None
    """What would be typed once more behind the key; None where that cannot be."""
    line: str
    """What it comes to."""


def code_that_runs(config: Config) -> list[str]:
    """A line for each class, function or command that is not of rlscale, and where it is."""
    return [one.line for one in named_code(config)]


def named_code(config: Config) -> list[Named]:
    """Each class, function or command that is not of rlscale, and what else runs with the rights of the user."""
    found, texts = [], [*_texts(config, "")]
    for key, target in _targets(texts):
        places = () if target.startswith(f"{PACKAGE}.") else places_of(target.partition(".")[0])
        if places:  # else nothing runs: building says that there is no such module
            line = f"{key.removesuffix(f'.{TARGET}')}: runs {target} of {places[0].resolve()}"
            found.append(Named(key, target, line))
    agent = config.agent
    commands = {"agent.command": agent.command, "agent.arguments.command": agent.arguments.get("command")}
    found += [Named(key, str(command), f"{key}: runs {command}") for key, command in commands.items() if command]
    unguarded = [key for key, value in texts if value == "none" and key.endswith(f".{_SANDBOX}")]
    found += [Named(key, "none", f"{key}=none: runs what the policy writes, with your rights") for key in unguarded]
    rollout = config.rollout
    groups = {f"rollout.engine_groups.{name}": group.sglang for name, group in rollout.engine_groups.items()}
    models = {f"rollout.models.{name}": model.sglang for name, model in rollout.models.items()}
    for place, options in {"rollout": rollout.sglang, **groups, **models}.items():
        if options.get("trust_remote_code"):
            key = f"{place}.sglang.trust_remote_code"
            found.append(Named(key, True, f"{key}: engines run the code in the model's folder"))
    address = config.cluster.ray_address
    if address not in (None, "auto", "local"):
        line = f"cluster.ray_address={address}: joins that Ray, whose machines are trusted with everything"
        found.append(Named("cluster.ray_address", address, line))
    return found


def _targets(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keys and values of every `_target_`, also of those inside arguments."""
    return [(key, value) for key, value in texts if key.rpartition(".")[2] == TARGET]


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys and values of every text, however deep."""
    if isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}{number}.")
        return
    items = _values(value) if isinstance(value, Section) else value.items() if isinstance(value, Mapping) else ()
    for name, inner in items:
        if isinstance(inner, str):
            yield f"{key}{name}", inner
        elif type(inner) not in SCALARS:
            yield from _texts(inner, f"{key}{name}.")


def _values(section: Section) -> Iterator[tuple[str, Any]]:
    return ((item.name, getattr(section, item.name)) for item in fields_of(section))
