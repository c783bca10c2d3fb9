"""The most memory that a call takes, for benchmarks.

On the CPU it is the running sum of the allocations and frees that torch.profiler records (in the allocator itself, so
that nothing is missed), on a GPU torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile, record_function


def peak_bytes(calls: list[Callable[[], object]], device: torch.device) -> list[int]:
    """Of each call the most that the allocator held, over what it held before."""
    return [_on_gpu(call, device) for call in calls] if device.type == "cuda" else _on_cpu(calls)


def _on_gpu(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - held


def _on_cpu(calls: list[Callable[[], object]]) -> list[int]:
    """All in one recording, each call under a name of its own: the profiler says on stderr that it starts and stops."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        for number, call in enumerate(calls):
            with record_function(f"call {number}"):
                call()
    assert recorded.profiler is not None
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    spans = {e.name(): (e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name().startswith("call ")}
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    peaks = []
    for number in range(len(calls)):
        start, end = spans[f"call {number}"]
        peaks.append(max(accumulate((size for at, size in changes if start <= at <= end), initial=0)))
    return peaks
