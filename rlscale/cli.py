"""The command line: `python -m rlscale [command] [options] [overrides]`. Errors are lines, not tracebacks."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlscale
from rlscale.config.composition.command_words import recipe_and_overrides
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.foreign_code import OPTION, allowed_code, allowing_code
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.shown import say, say_error
from rlscale.run.processes.printing import print_anything

if TYPE_CHECKING:
    from rlscale.config.schema import Config

COMMANDS = {
    "check": ("rlscale.run.commands.check:check", "check a run without starting it, on whatever machine"),
    "eval": (
        "rlscale.run.commands.eval_command:evaluate",
        "measure a run's model, or any other, on any evaluation set",
    ),
    "rescore": ("rlscale.run.commands.rescore:rescore", "try a changed reward on the stored rollouts of a run"),
    "export": (
        "rlscale.run.commands.convert_command:export",
        "write a Hugging Face folder from a run's newest checkpoint",
    ),
    "import": (
        "rlscale.run.commands.convert_command:import_",
        "write a Hugging Face model as a Megatron checkpoint of its weights",
    ),
    "weights": (
        "rlscale.run.commands.compare_command:weights",
        "checksums of all tensors of a folder or engine, or two compared",
    ),
    "checkpoint": (
        "rlscale.run.commands.compare_command:checkpoint",
        "which tensors two checkpoints differ in, or whether a run's are what was written",
    ),
    "plan": ("rlscale.plan.plan_command:plan", "whether a run fits its devices, and about how long an iteration takes"),
    "explain": ("rlscale.explain.explain_command:explain", "what keys mean, where values come from, what reads them"),
    "doctor": ("rlscale.run.commands.doctor_command:doctor", "whether this machine or cluster is ready for a run"),
    "dashboard": (
        "rlscale.dashboard.dashboard_command:dashboard",
        "a page over runs, live ones included, in the browser",
    ),
    "engines": (
        "rlscale.run.commands.engines_command:engines",
        "serve an engine that outlives runs; let engines join a run that goes on, or leave it",
    ),
    "simulate": ("rlscale.run.simulation.simulate_command:simulate_command", "what a run's schedule would come to"),
    "warm": (
        "rlscale.run.commands.warm_command:warm",
        "keep imported processes ready, so that CPU runs start in seconds",
    ),
    "check-hook": (
        "rlscale.run.commands.check_hook:check_hook",
        "test a loss, score, advantage, ... or reward of your own",
    ),
}
"""Subcommands: the function that gets the arguments after the name and returns an exit code, and what it does."""

_USAGE = """python -m rlscale [options] [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]
       python -m rlscale COMMAND ..."""

_FAULT = 1
_BAD_INPUT = 2
_INTERRUPTED = 130


@dataclass(frozen=True)
class Arguments:
    """The command line, taken apart."""

    recipe: str | None
    overrides: list[str]
    options: argparse.Namespace
    own_process: bool = False
    """Whether this process was started with it, and may become another one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code (0 fine, 2 bad input)."""
    print_anything()
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        packages, rest = _allowed(given)
        with allowing_code(packages):
            return _main(rest, own_process=argv is None)
    except UserError as error:
        if "--debug" in given:
            say_error(traceback.format_exc().rstrip())
        for line in str(error).splitlines():
            say_error(f"error: {line}")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        return _unexpected(error, debug="--debug" in given)


def _main(given: list[str], *, own_process: bool) -> int:
    words = [text for text in given if not text.startswith("-")]
    if words and words[0] in COMMANDS:
        flags_and_words = [text for text in given if text != "--debug"]
        flags_and_words.remove(words[0])
        return _command(words[0], flags_and_words)
    return _dispatch(replace(read_arguments(given), own_process=own_process))


def _allowed(given: list[str]) -> tuple[list[str], list[str]]:
    """The packages of `--allow-code=...`, which goes with every command, and the other words."""
    packages, rest = [], []
    for text in given:
        flag, equals, value = text.partition("=")
        if flag != OPTION:
            rest.append(text)
        elif not equals or not all(name.isidentifier() for name in value.split(",")):
            raise UserError(f"{text}: name an installed package, {OPTION}=package")
        else:
            packages += value.split(",")
    return packages, rest


def _unexpected(error: Exception, *, debug: bool) -> int:
    """Say in one line what nobody expected; the traceback goes to a file (or, if need be, to the terminal)."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has gone (--help | head). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAULT
    from rlscale.run.processes.error_log import ErrorLog

    with suppress(OSError):
        Path(".rlscale").mkdir(0o700)
    log = ErrorLog(".rlscale")
    written = log.exception("command line", error)
    if debug or not written:
        say_error("".join(traceback.format_exception(error)).rstrip())
    where = f"; its traceback is in {log.path}" if written else ""
    reason = str(error).strip().splitlines()
    said = reason[0] if reason else "no message"
    say_error(f"error: {type(error).__name__}: {said}. This is a bug in rlscale{where}")
    return _FAULT


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Options, recipe and overrides, in any order. Raises UserError for an unknown option or command."""
    try:
        options, words = _parser().parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    for text in words:
        if text.startswith("-"):
            guess = nearest(text.partition("=")[0], [flag for flags, _ in _FLAGS for flag in flags])
            raise UserError(f"{text}: unknown option{did_you_mean(guess)}")
    recipe, overrides = recipe_and_overrides(words)
    if words and words[0] in COMMANDS:
        raise UserError(
            f"{words[0]}: a command stands first, and of the options only --debug, --allow-code and --help go with it"
        )
    if words and "=" not in words[0] and not words[0].startswith("~"):
        hint = did_you_mean(nearest(words[0], COMMANDS)) or f"; known: {', '.join(COMMANDS)}"
        raise UserError(f"{words[0]}: unknown command{hint} (overrides are written key=value)")
    return Arguments(recipe, overrides, options)


_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--help", "-h"), {"action": "store_true", "help": "show this text"}),
    (("--version",), {"action": "store_true", "help": "show the version"}),
    (("--cfg", "-c"), {"choices": ["job", "hydra", "all"], "help": "print the composed configuration, run nothing"}),
    (("--package", "-p"), {"metavar": "SECTION", "help": "of --cfg, print only this section"}),
    (("--resolve",), {"action": "store_true", "help": "of --cfg, resolve interpolations"}),
    (("--multirun", "-m"), {"action": "store_true", "help": "run every combination of key=a,b: a sweep"}),
    (("--dry-run",), {"action": "store_true", "help": "write what would start, and start nothing"}),
    (("--slurm",), {"action": "store_true", "help": "of --dry-run, with a job script for sbatch"}),
    (("--kubernetes",), {"metavar": "IMAGE", "help": "of --dry-run, with a KubeRay job that runs in this image"}),
    ((OPTION,), {"metavar": "PACKAGE", "help": "=PACKAGE: run what _target_ names of an installed package"}),
    (("--debug",), {"action": "store_true", "help": "show the traceback of an error"}),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlscale", add_help=False, allow_abbrev=False, exit_on_error=False)
    for flags, settings in _FLAGS:
        parser.add_argument(*flags, **settings)
    return parser


def _dispatch(arguments: Arguments) -> int:
    options = arguments.options
    if options.help:
        say(help_text())
        return 0
    if options.version:
        say(f"rlscale {rlscale.__version__}")
        return 0
    if not options.cfg and (options.package or options.resolve):
        raise UserError("--package and --resolve belong to --cfg: python -m rlscale --cfg job ...")
    if not options.dry_run and (options.slurm or options.kubernetes):
        raise UserError("--slurm and --kubernetes belong to --dry-run: python -m rlscale --dry-run --slurm ...")
    if options.dry_run and (options.multirun or options.cfg):
        raise UserError("--dry-run goes with neither --multirun nor --cfg: leave one of them out")
    if options.dry_run:
        return _dry_run(arguments)
    if options.multirun:
        return _sweep(arguments)
    if options.cfg:
        sys.stdout.write(_printed(arguments))  # YAML has escapes of its own
        return 0
    return _run(arguments)


def _run(arguments: Arguments) -> int:
    from rlscale.config.checks import check
    from rlscale.config.composition.compose import compose

    config = compose(arguments.recipe, arguments.overrides)
    if arguments.own_process and config.cluster.warm is not None:
        from rlscale.run.processes.forks import hand_over

        hand_over(config, ["-m", "rlscale", *sys.argv[1:]])
    for note in check(config):
        say_error(f"note: {note}")
    from rlscale.run.execute import execute

    return execute(config)


def _dry_run(arguments: Arguments) -> int:
    from rlscale.config.composition.compose import compose
    from rlscale.run.dry_run.dry_run import dry_run

    config = compose(arguments.recipe, arguments.overrides)
    recipe = [f"recipe={arguments.recipe}"] if arguments.recipe is not None else []
    command = [sys.executable, "-m", "rlscale", *recipe, *arguments.overrides, *allowed_code()]
    return dry_run(config, command, slurm=arguments.options.slurm, image=arguments.options.kubernetes)


def _printed(arguments: Arguments) -> str:
    from rlscale.config.composition.compose import compose_node, printed

    options = arguments.options
    composition = compose_node(arguments.recipe, arguments.overrides, hydras=options.cfg != "job")
    return printed(composition, options.cfg, section=options.package, resolve=options.resolve)


def _sweep(arguments: Arguments) -> int:
    from rlscale.config.composition.sweep_expansion import expand

    runs = expand(arguments.overrides, arguments.recipe)
    configs = _checked(arguments.recipe, runs)
    if arguments.options.cfg:
        for run in runs:
            say(f"# {' '.join(run)}")
            sys.stdout.write(_printed(Arguments(arguments.recipe, run, arguments.options)))
        return 0
    from rlscale.run.commands.sweep import run_sweep

    return run_sweep(configs, runs, arguments.recipe, debug=arguments.options.debug)


def _checked(recipe: str | None, runs: list[list[str]]) -> list[Config]:
    """The configurations of a sweep, all looked at before the first one starts: a mistake must not cost a night."""
    from rlscale.config.checks import check
    from rlscale.config.composition.compose import compose
    from rlscale.config.composition.sweep_expansion import differing
    from rlscale.config.keys import plain
    from rlscale.config.machine import check_machine
    from rlscale.run.preflight import preflight_of_sweep

    configs, problems, told = [], [], set[str]()
    first: dict[str, str] = {}  # by what a run computes, the overrides of the first that computes it
    for run, own in zip(runs, differing(runs), strict=True):
        try:
            config = compose(recipe, run)
            for note in check(config):
                if note not in told:  # before anything is built: whose code runs is one of them
                    say_error(f"note: {note}")
                    told.add(note)
            check_machine(config)
            preflight_of_sweep(config)
            configs.append(config)
            same = first.setdefault(json.dumps(plain(config), sort_keys=True), " ".join(own))
            if same != " ".join(own):
                problems.append(f"{' '.join(own)}: is the same run as {same}; leave one of them out")
        except ConfigError as error:
            for line in error.problems:
                named = not own or line.split(":")[0] in own
                problems.append(line if named else f"{' '.join(own)}: {line}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return configs


def _command(name: str, argv: list[str]) -> int:
    module, _, function = COMMANDS[name][0].partition(":")
    code: int = getattr(import_module(module), function)(argv)
    return code


def help_text() -> str:
    """The text of --help: usage, commands, options, recipes, and every group with its options."""
    from rlscale.config.composition.groups import ANY, PLACES, Groups
    from rlscale.config.composition.recipe_file import DEFAULT, shipped_recipes

    groups = Groups.of()
    commands = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    flags = [f"  {', '.join(flags):<18} {settings['help']}" for flags, settings in _FLAGS]
    choices = [f"  {name:<10} {', '.join(groups.options(name))}" for name in groups.names]
    for name, places in PLACES.items():
        for place in (place.replace(ANY, "NAME") for place in places[1:]):
            choices.append(f"  {name}@{place}  the same, for {place}")
    return "\n".join(
        [
            f"usage: {_USAGE}",
            "",
            "Without a recipe, runs recipe=" + DEFAULT + ". Every key: python -m rlscale --cfg job",
            "",
            "commands:",
            *commands,
            "options:",
            *flags,
            f"recipes: {', '.join(shipped_recipes())}",
            "groups (group=option):",
            *choices,
        ]
    )
