"""Stacks that are read from outside a process, by py-spy: also those of one that is stopped or answers no signal.

This works wherever a debugger would: the same user, and a system that lets him trace processes that are not his shell's
children (root may everywhere; a container may need SYS_PTRACE). Nothing is installed in the process, and it is not
halted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_LIMIT_S = 5.0
_ATTEMPTS = 3
"""A process that runs on meanwhile may change what is being read."""
_AT_ONCE = 8


def spied(pid: int) -> str | None:
    """The stacks of all threads of a Python process of this machine; None where they may not be read."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return None
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    for _ in range(_ATTEMPTS):
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if told.returncode == 0 and "Thread " in told.stdout:
            return told.stdout
    return None


def spied_families(
    pids: Sequence[int], but: Collection[int] = (), alone: Collection[int] = ()
) -> dict[int, dict[int, str]]:
    """By each of the processes: the stacks of it and, unless it is one of `alone`, of what descends from it.

    By process id. Guards, processes that do not run Python, and `but` with what descends from them are left out.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        families = {pid: _python_below(pid, {*but} - {pid}, alone) for pid in pids}
        asked = {pid: {one: pool.submit(spied, one) for one in family} for pid, family in families.items()}
        told = {pid: {one: ref.result() for one, ref in family.items()} for pid, family in asked.items()}
    return {pid: {one: text for one, text in family.items() if text is not None} for pid, family in told.items()}


def _python_below(pid: int, but: Collection[int], alone: Collection[int]) -> list[int]:
    """The process and, unless it is one of `alone`, its descendants, in which Python runs."""
    try:
        process = psutil.Process(pid)
        children = [child.pid for child in process.children() if child.pid not in but] if pid not in alone else []
        mine = [pid] if "python" in Path(process.exe()).name and "-S" not in process.cmdline() else []
    except psutil.Error:
        return []
    return [*mine, *(below for child in children for below in _python_below(child, but, alone))]
