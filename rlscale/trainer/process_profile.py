"""What a process computes between two moments: torch's profiler and, on a GPU, the history of its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlscale.config.own_files import cleared

_ENTRIES = 200_000
"""Allocations that a memory snapshot holds at most."""


class ProcessProfile:
    """Starts when it is made; `write` ends it. Both from the thread that computes."""

    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_ENTRIES)
        self._profiler: Any = torch.profiler.profile(activities=activities)
        self._profiler.start()

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.trace.json.gz`, for Perfetto, and on a GPU `<name>.memory.pickle` (pytorch.org/memory_viz)."""
        self._profiler.stop()
        folder.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(cleared(folder / f"{name}.trace.json.gz")))
        if self._on_gpu:
            torch.cuda.memory._dump_snapshot(str(cleared(folder / f"{name}.memory.pickle")))
            torch.cuda.memory._record_memory_history(enabled=None)
