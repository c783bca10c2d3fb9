"""`python -m rlscale doctor`: is this machine, or every machine of the Ray cluster, ready for a command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import recipe_text, resolved_text
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.doctor.bundle import write_bundle
from rlscale.doctor.facts import Facts, Link
from rlscale.doctor.finding import Verdict
from rlscale.doctor.gathering import gather
from rlscale.doctor.lock import locked
from rlscale.doctor.registry import examine
from rlscale.run.disk.run_folder import MARK

USAGE = (
    "usage: python -m rlscale doctor [--bundle FILE] [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]\n"
    "  Asks this machine, or with cluster.ray_address every machine of that cluster, whether it is ready for the run:\n"
    "  versions, devices, memory, disks, limits, ports, clocks, models and data, and how fast they reach each other.\n"
    "  --bundle FILE  also writes what a report of a fault needs into a zip file, without keys; with\n"
    "                 run.output=FOLDER the logs of that run, too\n"
    "  Exit code 0 if there is no problem, 1 if there is one, 2 for bad input."
)
_NOT_READY = 1
_BUNDLE = "--bundle"


@dataclass(frozen=True)
class _Asked:
    recipe: str | None
    overrides: list[str]
    bundle: Path | None


def doctor(arguments: Sequence[str]) -> int:
    """Print what the checks found, a line each. Returns 1 with a problem, otherwise 0; UserError for bad input."""
    if help_is_shown(arguments, USAGE):
        return 0
    asked = _read(arguments)
    config = compose(asked.recipe, asked.overrides)
    check(config)
    lock = locked()
    facts, links = _machines(config, lock)
    lines, worst = [], Verdict.ok
    for name, where, finding in examine(config, facts, lock, links):
        lines.append(finding.line(name, where))
        say(lines[-1])
        if finding.verdict is not Verdict.ok and worst is not Verdict.problem:
            worst = finding.verdict
    last = {Verdict.ok: "ready", Verdict.warning: "ready, but see the warnings", Verdict.problem: "not ready"}[worst]
    say(last)
    if asked.bundle is not None:
        _bundle(asked, config, facts, [*lines, last])
    return _NOT_READY if worst is Verdict.problem else 0


def _read(arguments: Sequence[str]) -> _Asked:
    words, bundle = list(arguments), None
    for at, word in enumerate(words):
        if word == _BUNDLE or word.startswith(f"{_BUNDLE}="):
            rest = [word.partition("=")[2]] if "=" in word else words[at + 1 : at + 2]
            if not rest or not rest[0] or (word == _BUNDLE and "=" in rest[0]):
                raise UserError(f"{_BUNDLE} needs a file: python -m rlscale doctor {_BUNDLE} report.zip ...")
            bundle = Path(rest[0])
            del words[at : at + (1 if "=" in word else 2)]
            break
    return _Asked(*recipe_and_overrides(words, "doctor"), bundle)


def _machines(config: Config, lock: dict[str, str]) -> tuple[list[Facts], list[Link]]:
    """What this machine says, or with `cluster.ray_address` all that the run would use."""
    if config.cluster.ray_address is None:
        return [gather(config, lock)], []
    from rlscale.run.commands.doctor_cluster import ask_cluster

    return ask_cluster(config, lock)


def _bundle(asked: _Asked, config: Config, facts: Sequence[Facts], lines: Sequence[str]) -> None:
    assert asked.bundle is not None
    recipe = [f"recipe={asked.recipe}"] if asked.recipe is not None else []
    said = {
        "doctor.txt": "\n".join([*lines, ""]),
        "command.txt": shlex.join(["python", "-m", "rlscale", *recipe, *asked.overrides]) + "\n",
        "recipe.yaml": recipe_text(config),
        "resolved.yaml": resolved_text(config),
        "packages.txt": "".join(f"{name}=={have}\n" for name, have in facts[0].packages.items()),
    }
    output = config.run.output
    run = Path(output) if output is not None and (Path(output) / MARK).is_file() else None
    names = write_bundle(asked.bundle, said, facts[0].variables, run)
    say(f"{asked.bundle}: {len(names)} files, keys taken out; look through it before you send it")
