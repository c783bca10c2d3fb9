"""An object in a process of its own: for packages that draw from global generators, leak threads or take long."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rlscale.envs.workers.processes import started

_START_S = 60.0


class ObjectProcessFailed(Exception):
    """A call got no answer; the message is what it raised over there, or how the process ended."""


class ObjectProcessDied(ObjectProcessFailed):
    """The process ended in the middle of a call."""


class ObjectProcessLate(ObjectProcessFailed):
    """A call took over its time, and its process was ended."""


class ObjectProcess:
    """Builds what a `_target_` node names in another process, and calls its methods there.

    The process starts with the first call, is started anew for the call behind one in which it died or took too long,
    and ends with this one. Safe to use from several threads, one call at a time.
    """

    def __init__(self, node: Mapping[str, Any], key: str) -> None:
        """`key`: how messages name the node."""
        self._node, self._key = dict(node), key
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._fresh = True

    @property
    def fresh(self) -> bool:
        """Whether the next call is the first of its process, and its start part of it."""
        return self._fresh

    def call(self, method: str, calls: Sequence[Sequence[Any]], timeout_s: float) -> list[Any]:
        """What the method gives for each of the lists of arguments. Blocks.

        ObjectProcessFailed if it raises, dies (ObjectProcessDied) or takes over `timeout_s` seconds for all, its
        start aside (ObjectProcessLate).
        """
        with self._lock:
            if self._process is None:
                self._start()
            try:
                self._connection.send((method, [tuple(arguments) for arguments in calls]))
                if not self._connection.poll(timeout_s + _START_S * self._fresh):
                    self._end()
                    raise ObjectProcessLate(f"{self._key}: {method} took over {timeout_s:g} seconds")
                raised, given = self._connection.recv()
            except (EOFError, ConnectionError):
                code = self._end()
                raise ObjectProcessDied(f"{self._key}: its process ended with code {code} in {method}") from None
            self._fresh = False
        if raised:
            raise ObjectProcessFailed(raised)
        return list(given)

    def close(self) -> None:
        """End the process; a later call starts another one."""
        with self._lock:
            if self._process is not None:
                self._end()

    def _start(self) -> None:
        self._process, self._connection = started("rlscale.envs.workers.object_worker")
        self._connection.send((list(sys.path), self._node, self._key))

    def _end(self) -> int:
        """Kill the process; its exit code."""
        process, self._process, self._fresh = self._process, None, True
        assert process is not None
        process.kill()
        self._connection.close()
        return process.wait()


def shared_process(node: Mapping[str, Any], key: str) -> ObjectProcess:
    """The process of this program for the node; all who ask for the same one share it."""
    return _shared(json.dumps(node, sort_keys=True, default=str), key)


@lru_cache(maxsize=16)
def _shared(node: str, key: str) -> ObjectProcess:
    return ObjectProcess(json.loads(node), key)
