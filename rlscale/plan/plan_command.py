"""`python -m rlscale plan`: does a run fit, and about how long does an iteration take. Starts and downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rlscale.config.checks import check
from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.errors import ConfigError, UserError, first_line
from rlscale.config.keys import plain
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.plan.plan_lines import lines, rounded
from rlscale.plan.planned_run import Plan, plan_run
from rlscale.plan.solving import solve
from rlscale.plan.trainer_memory import GIB

USAGE = (
    "usage: python -m rlscale plan [--solve] [--why KEY] [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]\n"
    "  Says what the run needs of each device in each phase and of the host, and about how long an iteration takes.\n"
    "  --solve    tries layouts, micro-batches, recomputing, offloading and engines; prints the five best that fit\n"
    "  --why KEY  says what other values of a key would come to\n"
    "  cluster.gpu_memory_gb says how large a GPU is (80 where it is not given).\n"
    "  Exit code 0 if the run as given fits, 1 if it does not, 2 for bad input."
)
_NOT_FITTING = 1


@dataclass(frozen=True)
class _Asked:
    recipe: str | None
    overrides: list[str]
    solve: bool
    why: str | None


def plan(arguments: Sequence[str]) -> int:
    """Print the plan. Returns 0 if the run fits, 1 if not; UserError for bad input."""
    if help_is_shown(arguments, USAGE):
        return 0
    asked = _read(arguments)
    config = compose(asked.recipe, asked.overrides)
    architecture = architecture_of(config.model)
    check(config, architecture)
    found = plan_run(config, architecture)
    if asked.why is not None:
        for line in _why(asked, config, found):
            say(line)
        return 0 if found.fits else _NOT_FITTING
    for line in lines(config, found):
        say(line)
    if asked.solve:
        solutions = solve(asked.recipe, asked.overrides, config)
        say("the best that fit:" if solutions else "nothing that was tried fits: more or larger GPUs are needed")
        for number, solution in enumerate(solutions, 1):
            say(f"  {number}. {solution.words()}\n     {' '.join(solution.overrides) or '(as it is)'}")
    return 0 if found.fits else _NOT_FITTING


def _read(arguments: Sequence[str]) -> _Asked:
    words, why = [part for word in arguments for part in _apart(word)], None
    if "--why" in words:
        at = words.index("--why")
        if at + 1 == len(words) or "=" in words[at + 1] or words[at + 1].startswith("-"):
            raise UserError("--why needs a key: python -m rlscale plan --why trainer.recompute ...")
        why = words[at + 1]
        del words[at : at + 2]
    solving = "--solve" in words
    words = [word for word in words if word != "--solve"]
    return _Asked(*recipe_and_overrides(words, "plan"), solving, why)


def _apart(word: str) -> list[str]:
    """`--why=KEY` as two words."""
    return ["--why", word.removeprefix("--why=")] if word.startswith("--why=") else [word]


def _why(asked: _Asked, config: Config, found: Plan) -> Iterator[str]:
    """What other values of a key come to."""
    key = asked.why or ""
    here = _value(config, key)
    worst = found.worst
    yield f"{key}={here}: the fullest phase ({worst.name}) takes {worst.total / GIB:.2f} GiB{_lasting(found)}"
    others = _others(config, key)
    for value in others:
        try:
            other = compose(asked.recipe, [*asked.overrides, f"{key}={value}"])
            check(other)
        except (ConfigError, UserError) as error:
            yield f"  {key}={value} is refused: {first_line(error)}"
            continue
        planned = plan_run(other)
        needed, change = planned.worst.total / GIB, (planned.worst.total - worst.total) / GIB
        needs = f"{needed:.2f} GiB ({change:+.2f}, {planned.worst.name})"
        yield f"  {key}={value}: {needs}{_lasting(planned)}; {_changes(found, planned)}"
    if not others:
        yield "  no other values to try"


def _changes(before: Plan, after: Plan) -> str:
    """What each phase, and the host, need more or less, in GiB: the fullest phase may be another one."""
    needs = [
        {phase.name: max(p.total for p in plan.phases if p.name == phase.name) for phase in plan.phases}
        | {"host": sum(plan.host.values())}
        for plan in (before, after)
    ]
    changes = {name: (size - needs[0].get(name, 0.0)) / GIB for name, size in needs[1].items()}
    told = [f"{name} {change:+.2f}" for name, change in changes.items() if abs(change) >= 0.005]
    return ", ".join(told) or "no phase needs more or less"


def _lasting(plan: Plan) -> str:
    if plan.time is None:
        return ""
    return f", {rounded(plan.time.whole.least)} to {rounded(plan.time.whole.most)} s an iteration"


def _value(config: Config, key: str) -> object:
    value: object = plain(config)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"--why {key}: there is no such key; every key: python -m rlscale --cfg job")
        value = value[part]
    if isinstance(value, dict | list):
        raise UserError(f"--why {key}: is a section; name one of its keys")
    return value


def _others(config: Config, key: str) -> list[object]:
    """Values near that of a key: its other words, the other truth, half and twice."""
    value: object = config
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    if isinstance(value, Enum):
        return [other.name for other in type(value) if other is not value]
    if isinstance(value, bool):
        return [str(not value).lower()]
    if isinstance(value, int):
        return [number for number in (value // 2, value * 2) if number > 0]
    return [value / 2, value * 2] if isinstance(value, float) else []
