from __future__ import annotations

from typing import Any

import pytest

from rlscale.trainer.megatron.roster.device_residency import DeviceResidency


class FakeOffload:
    """Writes down what happens to a model."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.asleep, self.log = name, False, log

    def sleep(self) -> None:
        self.asleep = True
        self.log.append(f"{self.name} sleeps")

    def wake(self) -> None:
        self.asleep = False
        self.log.append(f"{self.name} wakes")


@pytest.fixture
def log() -> list[str]:
    return []


def make_residency(log: list[str], *, moves: bool) -> Any:
    residency = DeviceResidency(moves)
    for name in ("policy", "critic"):
        offload: Any = FakeOffload(name, log)
        residency.join(name, offload)
    return residency


def test_one_model_at_a_time_is_awake(log: list[str]) -> None:
    residency = make_residency(log, moves=True)
    assert residency.awake == []
    residency.take("critic")
    assert residency.awake == ["critic"]
    residency.take("policy")
    assert residency.awake == ["policy"]
    residency.rest_all()
    assert residency.awake == []


def test_the_one_that_leaves_does_so_before_the_other_comes(log: list[str]) -> None:
    residency = make_residency(log, moves=True)
    residency.take("critic")
    log.clear()
    residency.take("policy")
    assert log == ["critic sleeps", "policy wakes"]


def test_nothing_is_moved_where_memory_is_one(log: list[str]) -> None:
    residency = make_residency(log, moves=False)
    residency.take("critic")
    residency.rest_all()
    assert residency.awake == ["policy", "critic"]
    assert log == []
