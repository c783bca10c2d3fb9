"""`python -m rlscale dashboard`: runs, live ones included, in a browser."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.dashboard.found_runs import find_runs
from rlscale.dashboard.page_server import PageServer

USAGE = (
    "usage: python -m rlscale dashboard [FOLDER ...] [port=N]\n"
    "  Serves a page over the runs in these folders, or below them, until Ctrl-C; by default those in outputs.\n"
    "  It is for this machine alone, and for whoever has its address: the key is in it. From elsewhere:\n"
    "  ssh -L N:127.0.0.1:N. Nothing is loaded from outside, and nothing in the folders is changed.\n"
    "  port  to listen on; by default a free one"
)


def dashboard(arguments: Sequence[str]) -> int:
    """Serve until a signal ends it. UserError for a folder that is not there or a port that is taken."""
    if help_is_shown(arguments, USAGE):
        return 0
    folders, port = _read(arguments)
    asyncio.run(_serve(folders, port))
    return 0


def _read(arguments: Sequence[str]) -> tuple[list[Path], int]:
    folders, port = [], 0
    for word in arguments:
        key, equals, value = word.partition("=")
        if key == "port" and equals:
            if not value.isdigit() or int(value) > 65535:
                raise UserError(f"{word}: must be a port, from 0 (a free one) to 65535")
            port = int(value)
        elif word.startswith("-"):
            raise UserError(f"dashboard does not know {word!r}; see python -m rlscale dashboard --help")
        elif not Path(word).expanduser().is_dir():
            raise UserError(f"{word}: there is no such folder; name the folder of a run, or one above several")
        else:
            folders.append(Path(word).expanduser())
    return folders or [Path("outputs")], port


async def _serve(folders: list[Path], port: int) -> None:
    server, ended = PageServer(folders, port), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start()
    try:
        found = len(find_runs(folders))
        say(f"{found} run{'' if found == 1 else 's'} in {', '.join(map(str, folders))}; Ctrl-C ends this")
        say(server.url)
        await ended.wait()
    finally:
        await server.close()
