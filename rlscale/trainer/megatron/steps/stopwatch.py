"""How long the parts of a rank's steps take, without making anything wait for the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from rlscale.platform.device import Platform

R = TypeVar("R")


class Stopwatch:
    """Collects spans of time by name. On a GPU they are taken between events of its stream, read at the end."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._spans: dict[str, list[tuple[Any, Any]]] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """What runs within the block is one span of that name."""
        began = self._now()
        try:
            yield
        finally:
            self._spans.setdefault(name, []).append((began, self._now()))

    def around(self, name: str, function: Callable[..., R]) -> Callable[..., R]:
        """The function, each call of which is a span."""

        def measured(*args: Any, **options: Any) -> R:
            with self.span(name):
                return function(*args, **options)

        return measured

    def take(self) -> dict[str, list[float]]:
        """Seconds of each span since the last call, in order, by name. Waits for the device once."""
        self._platform.synchronize()
        spans, self._spans = self._spans, {}
        return {name: [self._seconds(*span) for span in of_name] for name, of_name in spans.items()}

    def _now(self) -> Any:
        if not self._platform.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, began: Any, ended: Any) -> float:
        return float(began.elapsed_time(ended)) / 1e3 if self._platform.is_cuda else float(ended - began)
