"""The code that a configuration names (classes, functions, commands), and what of the user's own it would send away.

Nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from rlscale.config.foreign_code import places_of, refusal_of
from rlscale.config.own_targets import PACKAGE
from rlscale.config.schema import Config
from rlscale.config.schema.section import SCALARS, Section, fields_of
from rlscale.config.target_key import TARGET

_SANDBOX = "sandbox"
"""The argument of what runs programs that the policy writes: `none` runs them without one."""

_KEY_FILE = "key_file"
"""End of the name of a key or argument that names a file whose content is sent as a bearer token."""
_SET_BY_COMPOSING = ("run.groups.", "run.environment.")


def refused_targets(config: Config) -> list[str]:
    """A line for each `_target_` in a configuration that may not be run."""
    named = dict(_targets(one for one in _texts(config, "") if not one[0].startswith(_SET_BY_COMPOSING)))
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
    found, texts = [], [one for one in _texts(config, "") if not one[0].startswith(_SET_BY_COMPOSING)]
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
    found += _sent(config, texts)
    address = config.cluster.ray_address
    if address not in (None, "auto", "local"):
        line = f"cluster.ray_address={address}: joins that Ray, whose machines are trusted with everything"
        found.append(Named("cluster.ray_address", address, line))
    return found


def _sent(config: Config, texts: Sequence[tuple[str, str]]) -> Iterator[Named]:
    """Values of the environment, and files with keys that go to an address elsewhere."""
    for key, names in config.run.environment.items():
        places = _addresses_beside(key, texts)
        goes = f", which may go to {' and '.join(places)}" if places else ""
        yield Named(key, None, f"{key}: is taken from the environment, {names}{goes}")
    for key, file in texts:
        if key.rpartition(".")[2].endswith(_KEY_FILE) and (places := _addresses_beside(key, texts)):
            yield Named(key, file, f"{key}: what {file} holds goes to {' and '.join(places)}")


def _addresses_beside(key: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    """The addresses in the section or node of a key that lead out of this machine, without paths and passwords."""
    section = key.rpartition(".")[0]
    begin = f"{section}."
    inside = [(name.removeprefix(begin).split("."), text) for name, text in texts if name.startswith(begin)]
    near = [text for names, text in inside if len(names) == 1 or (len(names) == 2 and names[1].isdigit())]
    return list(dict.fromkeys(place for text in near if (place := _elsewhere(text)) is not None))


def _elsewhere(text: str) -> str | None:
    """Scheme, host and port of an address that is not this machine's own; None for any other text."""
    if not text.lower().startswith(("http://", "https://")):
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return text  # whatever it is, it is no address of this machine
    with suppress(ValueError):
        if host == "localhost" or ip_address(host).is_loopback:
            return None
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"


def _targets(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keys and values of every `_target_`, also of those inside arguments."""
    return [(key, value) for key, value in texts if key.rpartition(".")[2] == TARGET]


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys and values of every text, however deep."""
    if isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            if isinstance(inner, str):
                yield f"{key}{number}", inner
            else:
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
