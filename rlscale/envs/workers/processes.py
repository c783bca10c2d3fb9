"""Rewards in processes of their own: right for heavy functions, and the only way to end one that hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from rlscale.envs.reward import RewardCall, RewardFailed
from rlscale.envs.workers.calling import Outcome

_MOST = 16
_START_S = 60.0


def fitting_workers() -> int:
    """How many processes suit this machine: half of its cores, from 2 to 16."""
    return max(2, min(_MOST, len(os.sched_getaffinity(0)) // 2))


class WorkerDied(RewardFailed):
    """The process ended during a call; the message says how."""


class ProcessPool:
    """`workers` processes that build the reward from its node and compute one call after another."""

    def __init__(self, workers: int, function: dict[str, Any]) -> None:
        self.size = workers
        self._function = function
        self._idle = [_Worker(function) for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="reward")
        self._all = set(self._idle)

    async def call(self, arguments: RewardCall, timeout_s: float, fresh: bool = False) -> Outcome:
        """What came of the call; TimeoutError past `timeout_s` seconds, which ends the process.

        `fresh`: in a process that has not computed anything yet.
        """
        worker = self._idle.pop()
        if fresh and worker.used:
            self._replace(worker)
            worker = self._idle.pop()
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, worker.call, arguments, timeout_s)
        try:
            outcome = await asyncio.shield(call)
        except BaseException:
            # Also when the caller gave up: the process is busy and the next call must not wait for it.
            call.add_done_callback(lambda future: future.cancelled() or future.exception())
            self._replace(worker)
            raise
        self._idle.append(worker)
        return outcome

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


def started(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that runs the module, whose argument is the socket to it: nothing else is inherited.

    Sets have the same order in every such process: some packages make problems from the order of a set, and another
    process has to judge the very same problem.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    return process, Connection(ours.detach())


class _Worker:
    """One process and the socket to it. Started by name, so that nothing but the socket is inherited."""

    def __init__(self, function: dict[str, Any]) -> None:
        self._process, self._connection = started("rlscale.envs.workers.process_worker")
        self._connection.send((list(sys.path), function))
        self._ready = False
        self.used = False
        """Whether it was given a call."""

    def call(self, arguments: RewardCall, timeout_s: float) -> Outcome:
        """What came of the call. Blocks.

        TimeoutError when it takes too long; WorkerDied when the process dies meanwhile; RewardFailed when it cannot
        start or build the reward, or when what the reward is given cannot be sent.
        """
        try:
            if not self._ready:
                # Importing the reward's packages is not part of the call's own time.
                if not self._connection.poll(max(timeout_s, _START_S)):
                    raise RewardFailed(f"a reward process did not start within {max(timeout_s, _START_S):g} s")
                started, message = self._connection.recv()
                if not started:
                    raise RewardFailed(message)
                self._ready = True
            self._send(arguments)
            self.used = True
            if not self._connection.poll(timeout_s):
                raise TimeoutError
            return Outcome(*self._connection.recv())
        except (EOFError, ConnectionError) as error:
            raise (WorkerDied if self.used else RewardFailed)(self._how_it_ended()) from error

    def kill(self) -> None:
        """End the process now; a thread that waits for it gets RewardFailed."""
        self._process.kill()
        self._process.wait()

    def _send(self, arguments: RewardCall) -> None:
        try:
            self._connection.send(tuple(arguments))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:  # such as an info that cannot be pickled
            raise RewardFailed(f"what the reward is given cannot be sent to its process: {error}") from error

    def _how_it_ended(self) -> str:
        """The exit code or the signal of a process whose socket is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        code = self._process.returncode
        if code is None:
            return "the reward closed the connection of its process"
        if code >= 0:
            return f"the reward's process ended with exit code {code}"
        names = {number.value: number.name for number in signal.Signals}
        return f"the reward's process was killed by signal {-code} ({names.get(-code, 'unknown')})"
