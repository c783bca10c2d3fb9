"""What a run leaves behind: `recipe.yaml` (choices and differing values) and `resolved.yaml` (everything)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import rlscale
from rlscale.config.composition.compose import compose_groups
from rlscale.config.composition.differences import differences
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.store import ROOT
from rlscale.config.composition.yaml_text import to_yaml
from rlscale.config.environment_values import without_secrets
from rlscale.config.keys import plain, what_counts
from rlscale.config.own_files import write_text
from rlscale.config.schema import Config
from rlscale.config.schema.about import Scope

_ORDER = (
    "model",
    "parallel",
    "algo",
    "rollout",
    "cluster",
    "data",
    "data@eval.data",
    "reward",
    "env",
    "optim",
    "tracker",
)

ESSENTIAL = (
    "torch",
    "transformers",
    "megatron-core",
    "mbridge",
    "sglang",
    "sglang-router",
    "ray",
    "hydra-core",
    "omegaconf",
)
"""Packages of which another version computes something else, or nothing."""
_PACKAGES = (*ESSENTIAL, "numpy", "datasets", "math-verify")


def write_recipe(config: Config, folder: Path) -> None:
    """Write `recipe.yaml`, which `recipe=<its path>` runs again, and `resolved.yaml` into `folder`.

    Paths in them are absolute: elsewhere the files that they name must lie in the same places. Secrets that came from
    the environment are named by their variables.
    """
    write_text(folder / "recipe.yaml", recipe_text(config))
    write_text(folder / "resolved.yaml", resolved_text(config))


def differing_keys(config: Config, folder: Path) -> list[str]:
    """Keys that make `config` compute something else than the run in `folder`; [] where that cannot be read."""
    try:
        before = OmegaConf.to_container(OmegaConf.load(folder / "resolved.yaml"), resolve=True)
    except Exception:  # YAML's own errors: their classes belong to a package that only OmegaConf imports
        return []
    if not isinstance(before, dict):
        return []
    known = {str(key): value for key, value in before.items()}
    return [key for key, _ in differences(known, what_counts(config))]


def resolved_text(config: Config) -> str:
    """Every value of a configuration, and what it is read on."""
    return to_yaml({**without_secrets(plain(config), config.run.environment), "ran_on": versions()})


def recipe_text(config: Config) -> str:
    """The recipe of a configuration: its group choices, and every value that differs from what they give."""
    choices, nested = _choices(config)
    groups = Groups.of()
    defaults: list[Any] = [ROOT, *({choice: option} for choice, option in choices.items())]
    chosen = compose_groups(defaults, {}, [], set(choices)).chosen
    for choice, option in nested.items():
        if chosen.get(choice) != option:
            within = groups.inside(choice) and choice.partition("/")[0] in choices
            defaults.append({f"override {choice}" if within else choice: option})
    base = compose_groups(defaults, {}, [], set(choices)).node
    before = OmegaConf.to_container(base, resolve=False, enum_to_str=True)
    after = without_secrets(plain(config, (Scope.result, Scope.execution)), config.run.environment)
    values = _difference(_followed(before, after, after), after)
    text = to_yaml({"defaults": [*defaults, "_self_"], **values})
    how = "run it again with: python -m rlscale recipe=<path of this file>"
    return f"# Written by rlscale {rlscale.__version__}; {how}\n{text}"


def versions() -> dict[str, Any]:
    """What a run ran on: Python, packages, and the commit of a source checkout."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "rlscale": rlscale.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": found,
    }


def _choices(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Choices of whole groups and of groups inside them, with shipped options only.

    An option from a user's folder is not there when the recipe runs elsewhere: its values are written out
    instead, over a shipped option of the same type where the section has several types.
    """
    groups = Groups.of()
    choices: dict[str, str] = {}
    nested: dict[str, str] = {}
    known = [*_ORDER, *(choice for choice in config.run.groups if choice not in _ORDER)]
    for choice in known:
        option = config.run.groups.get(choice)
        if option is None:
            continue
        group = choice.partition("@")[0]
        if not groups.ships(group, option):
            option = _stand_in(config, choice)
        if option is not None:
            (nested if "/" in group else choices)[choice] = option
    return choices, nested


def _stand_in(config: Config, choice: str) -> str | None:
    """A shipped option of the section's type; None where the group's values alone can say everything."""
    algo = config.algo
    if choice == "data":
        return config.data.option
    if choice == "data@eval.data":
        return config.eval.data.option if config.eval.data is not None else None
    return {
        "algo/score": lambda: algo.score.kind.name,
        "algo/advantage": lambda: algo.advantage.option,
        "algo/kl": lambda: "none",
        "algo/loss": lambda: algo.loss.option,
        "algo/correction": lambda: "none",
        "algo/reduction": lambda: algo.reduction.kind.name,
    }.get(choice, lambda: None)()


_FOLLOWING = re.compile(r"\$\{([\w.]+)\}")
_OTHERWISE = object()
"""Stands where a value follows a key but the configuration has another one there."""


def _followed(before: Any, after: Any, root: Mapping[str, Any]) -> Any:
    """`before` with every value that follows a key replaced by that key's value in `root`, if `after` has that too.

    Otherwise the whole value is written, because a section that is set no longer follows.
    """
    if isinstance(before, Mapping):
        inner = after if isinstance(after, Mapping) else {}
        return {str(key): _followed(item, inner.get(key), root) for key, item in before.items()}
    target = _FOLLOWING.fullmatch(before) if isinstance(before, str) else None
    if target is None:
        return before
    value: Any = root
    for part in target[1].split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if value == after else _OTHERWISE


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `after` that `before` does not already say."""
    found: dict[str, Any] = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = _difference(old, value)
            if inner:
                found[key] = inner
        elif key not in before or value != old:
            found[key] = value
    # The recipe's name is always said, because the file that it is written to is called otherwise.
    if "run" in after:
        found["run"] = {"recipe": after["run"]["recipe"], **found.get("run", {})}
    return found


def _commit() -> str | None:
    """The commit of the checkout that this package lies in; None for an installed package or without git."""
    root = Path(rlscale.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
