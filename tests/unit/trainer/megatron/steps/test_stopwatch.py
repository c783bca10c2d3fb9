from __future__ import annotations

import pytest

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.steps import stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> stopwatch.Stopwatch:
    """One whose clock goes on by one second each time somebody looks."""
    seconds = iter(range(100))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(seconds)))
    return stopwatch.Stopwatch(Platform.of(Device.cpu))


def test_spans_are_kept_in_order_until_they_are_taken(watch: stopwatch.Stopwatch) -> None:
    with watch.span("outer"), watch.span("inner"):
        pass
    with watch.span("inner"):
        pass
    assert watch.take() == {"inner": [1.0, 1.0], "outer": [3.0]}
    assert watch.take() == {}


def test_a_measured_function_does_what_it_did_and_each_call_is_a_span(watch: stopwatch.Stopwatch) -> None:
    double = watch.around("double", lambda x, *, plus=0: 2 * x + plus)
    assert (double(1), double(2, plus=3)) == (2, 7)
    assert watch.take() == {"double": [1.0, 1.0]}


def test_what_fails_is_a_span_too(watch: stopwatch.Stopwatch) -> None:
    with pytest.raises(RuntimeError), watch.span("failing"):
        raise RuntimeError
    assert watch.take() == {"failing": [1.0]}
