"""Rewards in processes of their own: right for heavy functions, and the only way to end one that hangs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from rlscale.envs.reward import RewardCall, RewardFailed


class ProcessPool:
    """`workers` processes that build the reward from its node and compute one call after another."""

    def __init__(self, workers: int, function: dict[str, Any]) -> None:
        self.size = workers
        self._function = function
        self._idle = [_Worker(function) for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="reward")
        self._all = set(self._idle)

    async def call(self, arguments: RewardCall, timeout_s: float) -> Any:
        """What the reward returns or raises; TimeoutError past `timeout_s` seconds, which ends its process."""
        worker = self._idle.pop()
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, worker.call, arguments, timeout_s)
        try:
            ok, value = await asyncio.shield(call)
        except BaseException:
            # Also when the caller gave up: the process is busy and the next call must not wait for it.
            call.add_done_callback(lambda future: future.cancelled() or future.exception())
            self._replace(worker)
            raise
        self._idle.append(worker)
        if not ok:
            raise RewardFailed(f"the reward raised {value}")
        return value

    def close(self) -> None:
        """End the processes."""
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._all.discard(worker)
        fresh = _Worker(self._function)
        self._all.add(fresh)
        self._idle.append(fresh)


class _Worker:
    """One process and the socket to it. Started by name, so that nothing but the socket is inherited."""

    def __init__(self, function: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlscale.envs.process_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._connection.send((list(sys.path), function))
        self._ready = False

    def call(self, arguments: RewardCall, timeout_s: float) -> tuple[bool, Any]:
        """(True, value) or (False, message). Blocks; TimeoutError when it takes too long, EOFError when it dies."""
        if not self._ready:
            # Importing the reward's packages is not part of the call's own time.
            if not self._connection.poll(max(timeout_s, 60.0)):
                raise TimeoutError("a reward process did not start")
            started, message = self._connection.recv()
            if not started:
                raise RewardFailed(message)
            self._ready = True
        self._connection.send(arguments)
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        return self._connection.recv()

    def kill(self) -> None:
        """End the process now; a thread that waits for it gets EOFError."""
        self._process.kill()
        self._process.wait()
