"""Which engines are to join a run that goes on, or to leave it: files in the run's folder, and what the run says.

Whoever may write there gives orders, and nobody else: a folder or a file that belongs to another user, or that others
may write, is not read. So nothing listens for orders.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlscale.config.errors import UserError
from rlscale.run.disk.run_folder import write_json

FOLDER = "engines"
_ANSWER = ".told.json"
_PRESENT = "present.json"
_LONGEST = 4096
"""Bytes of an order."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Order:
    """One engine, and whether it is to be there."""

    url: str
    wanted: bool
    id: str


@dataclass(frozen=True)
class Told:
    """What the run says to an order: `serving`, `left`, or `refused` and why."""

    url: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Present:
    """An engine that belongs to the run now."""

    url: str
    started_by: str
    """`the run`, or `somebody else`."""
    state: str
    """`serving`, or `silent`: it has not answered lately."""


class EngineOrders:
    """The orders of one run, and the answers to them."""

    def __init__(self, run: Path) -> None:
        """`run`: its folder."""
        self._folder = run / FOLDER

    def give(self, url: str, *, wanted: bool) -> Order:
        """Leave an order, in place of the one before for that engine. UserError for what is no address."""
        order = Order(checked_url(url), wanted, secrets.token_hex(8))
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(UserError, OSError):
            for other in self.orders():  # by another spelling: a run that continues would follow both
                if other.url != order.url and same_place(other.url, order.url):
                    (self._folder / f"{_name(other.url)}.json").unlink()
        write_json(self._folder / f"{_name(order.url)}.json", order.__dict__, mode=0o600)
        return order

    def orders(self) -> Iterator[Order]:
        """All of them, one for each engine; after those the error of the first that cannot be read.

        UserError or OSError for one that is none, or may be somebody else's.
        """
        if not self._folder.exists():
            return
        _refuse_others(self._folder.lstat(), self._folder)
        wrong: UserError | OSError | None = None
        for path in sorted(self._folder.glob("*.json")):
            if path.name == _PRESENT or path.name.endswith(_ANSWER):
                continue
            try:
                order = _read(path)
            except (UserError, OSError) as error:
                wrong = wrong or error
            else:
                yield order
        if wrong is not None:
            raise wrong

    def answer(self, order: Order, told: Told) -> None:
        """Say what became of an order."""
        write_json(self._folder / f"{_name(order.url)}{_ANSWER}", {**told.__dict__, "id": order.id})

    def told(self, order: Order | None = None) -> list[Told]:
        """What the run has said to this order, or to all of them."""
        found = []
        for path in sorted(self._folder.glob(f"*{_ANSWER}")):
            said = _fields(path.read_text(), path)
            if order is None or said.get("id") == order.id:
                found.append(Told(str(said["url"]), str(said["state"]), str(said["why"])))
        return found

    def tell_present(self, engines: list[Present]) -> None:
        """Write down which engines there are now."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_json(self._folder / _PRESENT, [one.__dict__ for one in engines])

    def present(self) -> list[Present]:
        """The engines that there were when the run last wrote them down. UserError for a file that it did not write."""
        path = self._folder / _PRESENT
        if not path.exists():
            return []
        try:
            return [Present(**one) for one in json.loads(path.read_text())]
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}); remove it") from error


def same_place(url: str, other: str) -> bool:
    """Whether two addresses are of one server, as `localhost` and `127.0.0.1` are."""
    return url == other or _resolved(url) == _resolved(other)


def _resolved(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    try:
        return socket.gethostbyname(parts.hostname or ""), parts.port
    except OSError:  # a name that nobody knows, or IPv6
        return parts.hostname or "", parts.port


def checked_url(url: str) -> str:
    """The address without what may follow it. UserError where it is none."""
    try:
        parts = urlsplit(url.rstrip("/"))
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port and not parts.path
    except ValueError:
        whole = False
    if not whole or parts.username or parts.query or parts.fragment:
        raise UserError(f"{url} is not the address of an engine; write it as http://host:port")
    return url.rstrip("/")


def _read(path: Path) -> Order:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor) as file:
        _refuse_others(os.fstat(descriptor), path)
        said = _fields(file.read(_LONGEST), path)
    if not isinstance(said.get("wanted"), bool) or not all(isinstance(said.get(key), str) for key in ("url", "id")):
        raise UserError(f"{path} is not one that `python -m rlscale engines` writes; remove it")
    return Order(checked_url(said["url"]), said["wanted"], said["id"])


def _fields(text: str, path: Path) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it") from error
    if not isinstance(said, dict):
        raise UserError(f"{path} is not one that `python -m rlscale engines` writes; remove it")
    return said


def _refuse_others(state: os.stat_result, path: Path) -> None:
    if state.st_uid != os.geteuid() or state.st_mode & _OTHERS or stat.S_ISLNK(state.st_mode):
        raise UserError(f"{path} belongs to somebody else, or others may write it; no order is read from it")


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]
