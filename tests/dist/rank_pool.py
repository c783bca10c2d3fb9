"""Worker processes that stay for a whole test run: starting ranks anew for every test would take most of the time."""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

import psutil

from rlscale.platform.ports import free_port

_PR_SET_PDEATHSIG = 1

_MOST_THREADS = 100
"""Threads of a process past which it is replaced: gloo keeps some of every group that there ever was, and they cost."""


class RankFailed(Exception):
    """A function failed on a rank; the message is its traceback."""


class RankPool:
    """Processes that run functions as the ranks of a trainer.

    A function is called as fn(rank, world_size, address, port, *args) and must be importable by its module's name.
    A process is started when a function first needs its rank.
    """

    def __init__(self) -> None:
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def _start(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._pipes) < size:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, world_size: int, timeout: float = 180.0) -> list[Any]:
        """What the function returns on each rank. RankFailed if one fails; after a hung one the pool starts anew."""
        if any(psutil.Process(process.pid).num_threads() > _MOST_THREADS for process in self._processes):
            self.close()
        self._start(world_size)
        port = free_port("127.0.0.1")
        for rank in range(world_size):
            self._pipes[rank].send((function, (rank, world_size, "127.0.0.1", port, *args)))
        results, failure = [], None
        for rank in range(world_size):
            if not self._pipes[rank].poll(5.0 if failure else timeout):
                self.close()
                raise RankFailed(failure or f"rank {rank} did not answer within {timeout} s")
            good, value = self._pipes[rank].recv()
            if good:
                results.append(value)
            else:
                failure = failure or f"rank {rank}:\n{value}"
        if failure:
            raise RankFailed(failure)
        return results

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._pipes, self._processes = [], []


def _work(pipe: Any) -> None:
    """A worker's life: take a function, run it, answer. It ends with the process that started it."""
    import ctypes
    import os
    import signal

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from rlscale.platform import megatron_cpu

    torch.set_num_threads(1)
    megatron_cpu.install()
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            _forget_groups()
        # Groups that a cycle keeps alive keep all of gloo's threads, and after a hundred tests those take all cores.
        gc.collect()


def _forget_groups() -> None:
    """What a function left open must not fail the next one."""
    from rlscale.trainer.megatron import parallel

    parallel.leave()
