"""Worker processes that stay for a whole test run: starting ranks anew for every test would take most of the time."""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
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
        while len(self._pipes) < size:
            ours, theirs = multiprocessing.Pipe()
            self._processes.append(start_process(_work, theirs))
            self._pipes.append(ours)

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


def start_process(function: Callable[..., None], *args: Any) -> Any:
    """A process that runs a function, forked from one that has imported `rank_modules` and done nothing else.

    Imports take seconds, so a process of its own is cheap only this way.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_modules"])
    process = context.Process(target=function, args=args, daemon=True)
    with _path_for_children():
        process.start()
    return process


@contextmanager
def _path_for_children() -> Iterator[None]:
    """Modules are found where they are found here: Python 3.11 does not tell the process that ranks are forked from."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _work(pipe: Any) -> None:
    """A worker's life: take a function, run it, answer. It ends with the process that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    importlib.import_module("rank_modules")  # an error there is not heard of before
    left = _keep_groups_that_are_left()
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        answer: tuple[bool, Any] | None = None
        try:
            answer = True, function(*args)
        except BaseException:
            pipe.send((False, traceback.format_exc()))  # at once: groups whose ranks wait for each other may not end
            _forget_groups()
        # Groups that a cycle keeps alive keep all of gloo's threads, and after a hundred tests those take all cores.
        # What is not collected stays to the end, and need not be looked through again.
        gc.collect()
        gc.freeze()
        _drop(left)
        if answer is not None:
            pipe.send(answer)


def _keep_groups_that_are_left() -> list[Any]:
    """Every group that is left from now on, still whole."""
    import torch.distributed as dist

    from rlscale.trainer.megatron.ranks import parallel

    left: list[Any] = []
    leave = parallel.leave

    def keep_and_leave() -> None:
        left.extend(dist.distributed_c10d._world.pg_map)
        leave()

    parallel.leave = keep_and_leave
    return left


def _drop(groups: list[Any]) -> None:
    """Let go of all groups at once: the end of each waits up to 10 ms for a thread of gloo's, and a trainer has 21."""

    def drop() -> None:
        with suppress(IndexError):
            groups.pop()

    threads = [Thread(target=drop) for _ in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _forget_groups() -> None:
    """What a function left open must not fail the next one."""
    from rlscale.trainer.megatron.ranks import parallel

    parallel.leave()
