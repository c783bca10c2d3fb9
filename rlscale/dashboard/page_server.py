"""The page and its requests on loopback, for whoever has the key."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from aiohttp import web

from rlscale.config.errors import UserError
from rlscale.dashboard.answers_of_run import RunAnswers
from rlscale.dashboard.found_runs import describe, find_runs, run_id
from rlscale.dashboard.page_text import page, policy

_LOGGER = logging.getLogger(__name__)
HOST = "127.0.0.1"
_LOOK_EVERY_S = 0.5
_LIST_EVERY_S = 2.0
_KEPT_S = 120.0
"""How long a run is read on after somebody asked for it last."""
_MOST_POINTS = 4000
_FIRST_S, _FOLLOW_S = 0.2, 0.05
"""How long is read on at a time: at first, and beside answers."""
_PAUSE_S = 0.05
"""How long after an answer the next question may come, which finds nobody reading."""


class PageServer:
    """`start`, then `url`; at last `close`. Files are read only, and only those of the runs below the folders."""

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        self._folders, self._port = folders, port
        self.key = secrets.token_urlsafe(24)
        self._listed: tuple[float, list[Path]] = (-1e9, [])
        self._runs: dict[str, RunAnswers] = {}
        self._runner: web.AppRunner | None = None
        self._following: asyncio.Task[None] | None = None
        self._answering, self._answered = 0, 0.0  # requests that somebody waits for, and when the last was answered
        self._faulty: set[str] = set()  # runs of which a fault was logged

    @property
    def url(self) -> str:
        """The page's address, with the key."""
        assert self._runner is not None
        return f"http://{HOST}:{self._runner.addresses[0][1]}/?key={self.key}"

    async def start(self) -> None:
        """Listen. UserError where the port is taken."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/api/runs", self._list)
        app.router.add_get("/api/runs/{run}/{what}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self._port).start()
        except OSError as error:
            raise UserError(f"port={self._port} is taken on {HOST}; choose another, or none for a free one") from error
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Listen no more."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Only with the key, and only by this machine's own name: another site's page may make a browser ask, too."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("key", "")
        host = (request.host or "").partition(":")[0]
        as_sent = given.encode(errors="surrogateescape")  # a header need not be text
        if host not in (HOST, "localhost") or not hmac.compare_digest(as_sent, self.key.encode()):
            return web.Response(status=401, text="open the address that the command printed: it has the key\n")
        try:
            response = await handler(request)
        except UserError as error:
            response = web.json_response({"error": str(error)}, status=404)
        except web.HTTPException:
            raise
        except Exception as error:
            _LOGGER.exception("%s could not be answered", request.path)
            response = web.json_response({"error": f"a fault of the dashboard: {error!r}"}, status=500)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=page(), content_type="text/html", headers={"Content-Security-Policy": policy()})

    async def _list(self, request: web.Request) -> web.Response:
        folders = await self._found()
        return _json(await asyncio.to_thread(lambda: [describe(folder) for folder in folders]))

    async def _answer(self, request: web.Request) -> web.Response:
        run = await self._run(request.match_info["run"])
        try:
            answer = _ASKED[request.match_info["what"]](run, request.query)
        except (KeyError, ValueError):
            return web.json_response({"error": "the request is not one of the page's"}, status=400)
        run.asked = time.monotonic()

        def made() -> Any:
            if run.reader.revision == 0:
                run.reader.refresh(_FIRST_S)
            return answer()

        self._answering += 1
        try:
            return _json(await asyncio.to_thread(made))
        finally:
            self._answering -= 1
            self._answered = time.monotonic()

    async def _found(self) -> list[Path]:
        """The runs' folders, looked for anew every other second."""
        if time.monotonic() - self._listed[0] > _LIST_EVERY_S:
            folders = await asyncio.to_thread(find_runs, self._folders)
            self._listed = time.monotonic(), folders
        return self._listed[1]

    async def _run(self, name: str) -> RunAnswers:
        if name not in self._runs:
            folder = next((one for one in await self._found() if run_id(one) == name), None)
            if folder is None:
                raise UserError("there is no such run any more")
            self._runs[name] = RunAnswers(folder)
        return self._runs[name]

    async def _follow(self) -> None:
        """Read on in the runs that somebody looks at; forget those that nobody does."""
        while True:
            busy = False
            for name, run in list(self._runs.items()):
                if time.monotonic() - run.asked > _KEPT_S:
                    del self._runs[name]
                elif self._is_asked(run):
                    busy = True
                else:
                    busy |= not await asyncio.to_thread(self._read_on, name, run)
                    run.read_on = time.monotonic()
            await asyncio.sleep(0.02 if busy else _LOOK_EVERY_S)

    def _is_asked(self, run: RunAnswers) -> bool:
        """Whether somebody waits for an answer, or may ask on in a moment: reading comes after that, but does come.

        To each run: where one was read just now, another one may have waited for long.
        """
        now = time.monotonic()
        return (self._answering > 0 or now - self._answered < _PAUSE_S) and now - run.read_on < _LOOK_EVERY_S

    def _read_on(self, name: str, run: RunAnswers) -> bool:
        """Whether all was read. A run that cannot be read is logged once, and looked at again later."""
        try:
            return run.reader.refresh(_FOLLOW_S)
        except Exception:
            if name not in self._faulty:
                self._faulty.add(name)
                _LOGGER.exception("%s cannot be read on", run.folder)
            return True


def _window(asked: Any) -> tuple[float | None, float | None]:
    first, last = (float(asked[name]) if name in asked else None for name in ("from", "to"))
    if not all(isfinite(one) for one in (first, last) if one is not None):
        raise ValueError("no number")
    return first, last


_ASKED: dict[str, Callable[[RunAnswers, Any], Callable[[], Any]]] = {
    "about": lambda run, asked: run.about,
    "curve": lambda run, asked: partial(
        run.curve, asked["metric"], max(1, min(int(asked.get("points", 600)), _MOST_POINTS)), *_window(asked)
    ),
    "timeline": lambda run, asked: partial(run.timeline, *_window(asked)),
    "engines": lambda run, asked: run.engines,
    "fates": lambda run, asked: run.fates,
    "groups": lambda run, asked: partial(run.groups, int(asked["iteration"]) if "iteration" in asked else None),
    "sample": lambda run, asked: partial(run.sample, int(asked["iteration"]), int(asked["row"])),
    "log": lambda run, asked: partial(run.log, asked["file"]),
}
"""Of each request its answer. KeyError or ValueError for what the page does not ask."""


def _json(value: Any) -> web.Response:
    return web.json_response(value, dumps=lambda found: json.dumps(found, allow_nan=False, separators=(",", ":")))
