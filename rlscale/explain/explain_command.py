"""`python -m rlscale explain`: what a key means, where its value comes from, what reads it. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.explain.configuration_diff import diff_lines
from rlscale.explain.differing_keys import differing_lines
from rlscale.explain.key_lines import key_lines
from rlscale.explain.origins import Origins

USAGE = (
    "usage: python -m rlscale explain [KEY ...] [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]\n"
    "       python -m rlscale explain --diff A B\n"
    "  With keys: meaning, type, default, the value here and where it comes from, what reads it and what checks it.\n"
    "  Keys of trainer.megatron, trainer.ddp, optim.megatron, rollout.sglang and rollout.router are explained in the\n"
    "  words of the package. A section lists its keys.\n"
    "  Without keys: every value that is not the schema's default, by where it comes from.\n"
    "  --diff A B  what differs between two recipes (names or paths) or output folders of runs."
)
_DIFF = "--diff"


@dataclass(frozen=True)
class _Asked:
    keys: list[str]
    recipe: str | None
    overrides: list[str]


def explain(arguments: Sequence[str]) -> int:
    """Print the explanation. Returns 0; raises UserError for bad input."""
    words = list(arguments)
    if help_is_shown(words, USAGE):
        return 0
    if _DIFF in words:
        words.remove(_DIFF)
        if len(words) != 2 or any(word.startswith("-") for word in words):
            raise UserError("--diff needs two recipes or output folders: python -m rlscale explain --diff A B")
        lines = diff_lines(*(word.removeprefix("recipe=") for word in words))
    else:
        asked = _read(words)
        origins = Origins(asked.recipe, asked.overrides)
        lines = key_lines(asked.keys, origins) if asked.keys else differing_lines(origins)
    for line in lines:
        say(line)
    return 0


def _read(words: Sequence[str]) -> _Asked:
    recipe, others = recipe_and_overrides(words, "explain")
    keys = [word for word in others if "=" not in word and not word.startswith("~")]
    return _Asked(keys, recipe, [word for word in others if word not in keys])
