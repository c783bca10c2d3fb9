"""`python -m rlscale check`: everything that can be known of a run without starting it, on whatever machine."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.config.checks import check as check_config
from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.keys import config_hash
from rlscale.config.machine import missing_files, shortcomings
from rlscale.config.shown import say
from rlscale.run.disk.run_folder import refuse_folder
from rlscale.run.preflight import Findings, look

USAGE = (
    "usage: python -m rlscale check [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]\n"
    "  Checks all that a run would check: builds hooks, rewards and data, and tries the tokenizer, of stages too.\n"
    "  Starts, keeps and downloads nothing, and says what this machine cannot tell.\n"
    "  Exit code 0 if no problems were found, 2 otherwise."
)


def check(arguments: Sequence[str]) -> int:
    """Print what was found, a line each. Returns 0; raises ConfigError with every problem."""
    if help_is_shown(arguments, USAGE):
        return 0
    config = compose(*recipe_and_overrides(arguments, "check"))
    found = Findings(notes=check_config(config))
    say(f"{config.run.recipe}: model {config.model.name}, algorithm {config.algo.name}")
    _listed("ok", Sizes.of(config).lines())
    _listed("note", found.notes)  # whose code runs is said before any of it is built
    said = len(found.notes)
    address = config.cluster.ray_address
    if address is None:
        found.problems += missing_files(config)
        not_here = shortcomings(config)
    else:
        not_here = [f"cluster.ray_address={address}: GPUs and memory of that cluster"]
    with found.of(""):
        refuse_folder(config, config_hash(config))
    look(config, found, fetch=False, tell=lambda line: _listed("note", [line]))
    _listed("ok", found.checked)
    _listed("note", found.notes[said:])
    _listed("not checked here", not_here)
    found.raise_problems()
    say(f"no problems found{', as far as this machine can tell' if not_here else ''}")
    return 0


def _listed(kind: str, lines: Sequence[str]) -> None:
    for line in lines:
        say(f"  {kind}: {line}")
