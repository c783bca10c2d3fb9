"""Every problem of a package through a check: `python benchmarks/environments.py reasoning_gym`, rlve_gym or textarena.

For each kind, at its lowest and its highest level (`--levels 0,3` for others): the same seed gives the same problem in
another maker, the stored answer is worth 1, `--garbage` is worth 0, what is no answer at all (`ODD`) is not worth 1, an
answer that is a program is not run, the global generators of Python and NumPy are as they were. In a game `--garbage`
is all that is said, to its end, and another maker must come to the same end. Printed are the totals and, for every kind
that fails, why. Some minutes on one core; a kind that takes over `--limit-s` seconds is given up.
"""

from __future__ import annotations

import argparse
import pickle
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.envs.games.text_arena_games import TextArenaGames
from rlscale.envs.problems import reasoning_gym_problems, rlve_problems
from rlscale.envs.problems.problem_maker import ProblemMaker
from rlscale.envs.problems.reasoning_gym_problems import ReasoningGymProblems
from rlscale.envs.problems.rlve_problems import RlveProblems

MAKERS = {"reasoning_gym": ReasoningGymProblems, "rlve_gym": RlveProblems, "textarena": TextArenaGames}
SLOW = {"reasoning_gym": reasoning_gym_problems.SLOW, "rlve_gym": rlve_problems.SLOW, "textarena": ()}
LONGEST_GAME = 100
EXECUTED = "rlscale.answer_executed"
PROGRAM = f"__import__('sys').audit('{EXECUTED}')"
ODD = ("nan", "inf", "1e999", "[]", "{}", "None", "True", "''", "()", "\0", "\ud800", PROGRAM)
executed: list[str] = []
"""An entry for each answer that was run as a program."""
SEEDS = (2, 1_000_003)


def main() -> None:
    """Check and print."""
    parser = argparse.ArgumentParser(description="Contract check of packages of problems.")
    parser.add_argument("package", choices=sorted(MAKERS))
    parser.add_argument("--names", default="", help="kinds, by commas; all of them if empty")
    parser.add_argument("--levels", default="", help="by commas; the lowest and the highest if empty")
    parser.add_argument("--garbage", default="zzz")
    parser.add_argument("--limit-s", type=int, default=30)
    asked = parser.parse_args()
    sys.addaudithook(lambda event, _: executed.append(event) if event == EXECUTED else None)
    make = MAKERS[asked.package]
    before, found, times = load_average(), dict[str, list[str]](), list[float]()
    names = [name for name in asked.names.split(",") if name]
    highest = make().highest_levels(names)
    if not names and (slow := SLOW[asked.package]):
        highest |= make().highest_levels(slow)
    for name, most in highest.items():
        levels: list[int | None] = [int(level) for level in asked.levels.split(",") if level]
        levels = levels or ([None] if most is None else sorted({0, most}))
        found[name] = checked(make(), make(), name, levels, asked.garbage, asked.limit_s, times)
    show(asked.package, found, times, before)


def checked(
    one: ProblemMaker,
    other: ProblemMaker,
    name: str,
    levels: list[int | None],
    garbage: str,
    limit_s: int,
    times: list[float],
) -> list[str]:
    """What is wrong with a kind; adds the milliseconds of making its problems to `times`."""
    wrong: list[str] = []
    for level in levels:
        where = "" if level is None else f" at level {level}"
        state = generators()
        try:
            with within(limit_s):
                for seed in SEEDS:
                    wrong += [
                        f"{what}{where}" for what in problem_checked(one, other, name, level, seed, garbage, times)
                    ]
        except TimeoutError:
            wrong.append(f"over {limit_s} s{where}")
        except Exception as error:
            wrong.append(f"{' '.join(f'{type(error).__name__}: {error}'.split())[:80]}{where}")
        if generators() != state:
            wrong.append(f"global generators moved{where}")
    return list(dict.fromkeys(wrong))


def problem_checked(
    one: ProblemMaker, other: ProblemMaker, name: str, level: int | None, seed: int, garbage: str, times: list[float]
) -> Iterator[str]:
    """What is wrong with one problem."""
    one.make(name, level, seed + 2)  # opens what there is to open
    started = time.perf_counter()
    problem = one.make(name, level, seed)
    times.append(1000 * (time.perf_counter() - started))
    if other.make(name, level, seed) != problem:
        yield "another problem from the same seed"
    if isinstance(one, TextArenaGames) and isinstance(other, TextArenaGames):
        yield from game_checked(one, other, name, seed, garbage)
        return
    if not problem.answer:
        yield "no stored answer"
    elif one.score(name, level, seed, problem.answer) != 1.0:
        yield "the stored answer is not worth 1"
    if one.score(name, level, seed, garbage) > 0:
        yield f"{garbage!r} is worth {one.score(name, level, seed, garbage):.2g}"
    for odd in ODD:
        if one.score(name, level, seed, odd) == 1.0 and odd != problem.answer:
            yield f"{odd!r} is worth 1"
    if executed:
        executed.clear()
        yield "runs an answer as a program"


def game_checked(one: TextArenaGames, other: TextArenaGames, name: str, seed: int, garbage: str) -> Iterator[str]:
    """What is wrong with a game in which all that is said is garbage."""
    actions: list[str] = []
    done = False
    while not done and len(actions) < LONGEST_GAME:
        actions.append(garbage)
        turn = one.turn(name, seed, actions)
        if not turn.done and not turn.said:
            yield "says nothing to an action"
        done = turn.done
    if not done:
        yield f"goes on after {LONGEST_GAME} actions that are not allowed"
    elif turn.reward > 0:
        yield f"{garbage!r} is worth {turn.reward:.2g}"
    if other.turn(name, seed, actions) != turn:
        yield "another course from the same seed and actions"


def generators() -> bytes:
    """The state of the global generators."""
    return pickle.dumps((random.getstate(), np.random.get_state()))


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """TimeoutError in what takes longer, once it runs Python again."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def show(package: str, found: dict[str, list[str]], times: list[float], load: object) -> None:
    """The machine, the totals, the exceptions."""
    console = Console(width=160)
    machine = Table("machine", "", box=box.MARKDOWN)
    for key, value in {**describe_machine(), "load average at start, at end": f"{load}, {load_average()}"}.items():
        machine.add_row(key, value)
    console.print(machine)
    kinds = Counter(what.partition(" at level")[0] for wrong in found.values() for what in set(wrong))
    totals = Table(package, "", box=box.MARKDOWN)
    totals.add_row("kinds", f"{len(found)}")
    totals.add_row("without exception", f"{sum(not wrong for wrong in found.values())}")
    for what, count in kinds.most_common():
        totals.add_row(what, f"{count}")
    totals.add_row("a problem, ms: median, 95 %, most", times_of(times))
    console.print(totals)
    exceptions = Table("kind", "exception", box=box.MARKDOWN)
    for name, wrong in found.items():
        if wrong:
            exceptions.add_row(name, "; ".join(wrong))
    console.print(exceptions)


def times_of(times: list[float]) -> str:
    """Three figures."""
    high = statistics.quantiles(times, n=20)[-1]
    return f"{statistics.median(times):.2f}, {high:.1f}, {max(times):.0f}"


if __name__ == "__main__":
    main()
