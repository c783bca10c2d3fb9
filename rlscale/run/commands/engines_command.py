"""`python -m rlscale engines`: let engines that somebody else started join a run that goes on, or leave it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.run.disk.membership_orders import EngineOrders, Order
from rlscale.run.disk.run_folder import RunFolder, read_mark

USAGE = (
    "usage: python -m rlscale engines serve model=FOLDER [key=value ...]   (engines serve --help)\n"
    "       python -m rlscale engines add URL run.output=FOLDER [wait=SECONDS]\n"
    "       python -m rlscale engines remove URL run.output=FOLDER [wait=SECONDS]\n"
    "       python -m rlscale engines list run.output=FOLDER\n"
    "  URL         address of an SGLang server: http://host:port\n"
    "  run.output  folder of the run, which begins with fewer than rollout.engines_at_most engines\n"
    "  wait        how long the run may take to answer, by default 120\n"
    "an engine that joins has the current weights before it is asked; of one that leaves, requests go on in others."
)
_WORDS = {"add": True, "remove": False}
_WAIT_S = 120.0
_LOOK_EVERY_S = 0.2


def engines(arguments: Sequence[str]) -> int:
    """Give an order to a run and print what it says: 0 where it has followed, 2 where it refuses or says nothing."""
    if arguments and arguments[0] == "serve":
        from rlscale.run.commands.engine_serving import serve  # an order needs nothing of what an engine does

        return serve(arguments[1:])
    if not arguments or "--help" in arguments or "-h" in arguments:
        say(USAGE)
        return 0 if arguments else 2
    verb, *rest = arguments
    given = dict(word.split("=", 1) for word in rest if "=" in word and "://" not in word.split("=")[0])
    urls = [word for word in rest if "=" not in word or "://" in word.split("=")[0]]
    if unknown := [*given.keys() - {"run.output", "wait"}]:
        raise UserError(f"engines does not know {unknown[0]}; see --help")
    if verb not in (*_WORDS, "list") or "run.output" not in given or len(urls) != (verb != "list"):
        raise UserError("engines takes serve; add or remove with one URL, or list, and run.output=FOLDER; see --help")
    run = Path(given["run.output"])
    if read_mark(run) is None:
        raise UserError(f"run.output={run} holds no run")
    orders = EngineOrders(run)
    if verb == "list":
        return _list(orders, run)
    return _heard(orders, orders.give(urls[0], wanted=_WORDS[verb]), run, _seconds(given.get("wait")))


def _list(orders: EngineOrders, run: Path) -> int:
    """Print the engines that there are, and the orders that were refused."""
    present = orders.present()
    if not _goes_on(run):
        say("the run does not go on now; when it last did:")
    for engine in present:
        say(f"{engine.url}: {engine.state}, started by {engine.started_by}")
    for told in orders.told():
        if told.state == "refused":
            say(f"{told.url}: refused ({told.why})")
    return 0


def _heard(orders: EngineOrders, order: Order, run: Path, wait_s: float) -> int:
    give_up = time.monotonic() + wait_s
    while not (said := orders.told(order)):
        if not _goes_on(run):
            say(f"{order.url}: the run does not go on now; it looks at this when it does")
            return 2
        if time.monotonic() > give_up:
            say(f"{order.url}: the run has not answered within {wait_s:g} s; it does once its iteration lets it")
            return 2
        time.sleep(_LOOK_EVERY_S)
    told = said[0]
    say(f"{told.url}: {told.state}{f': {told.why}' if told.why else ''}")
    return 2 if told.state == "refused" else 0


def _goes_on(run: Path) -> bool:
    """Whether somebody holds the run's folder."""
    folder = RunFolder(run)
    try:
        folder.acquire()
    except UserError:
        return True
    folder.release()
    return False


def _seconds(text: str | None) -> float:
    try:
        return _WAIT_S if text is None else float(text)
    except ValueError as error:
        raise UserError(f"wait={text}: must be a number of seconds") from error
