"""The shipped buffers keep their contract, and a broken one fails by the name of what it breaks."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.run.contracts import check_buffer
from rlscale.run.contracts.made_groups import made_group
from rlscale.trainer.hook_contract.findings import failed
from tests.unit.run.contracts.broken_checks import broken


def test_the_shipped_buffer_and_that_of_the_example_keep_the_contract(own_parts: Any) -> None:
    for kind in (Buffer, own_parts.HardFirst):
        assert not failed(check_buffer(kind))


def test_the_buffer_of_the_example_prefers_hard_prompts_as_far_as_no_other_gets_stale(own_parts: Any) -> None:
    buffer = own_parts.HardFirst()
    for index, reward in enumerate((1.0, 0.75, 0.0, 0.5)):
        buffer.put(made_group(index, 1, (reward, reward)))
    assert [group.prompt.index for group in buffer.take(2, 1, max_staleness=1)] == [2, 3]
    buffer.put(made_group(4, 2, (0.0, 0.0)))
    buffer.put(made_group(5, 2, (0.0, 0.0)))
    assert [group.prompt.index for group in buffer.take(2, 2, max_staleness=1)] == [0, 1]  # in time, though easy


class Forgetful(Buffer):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({**state, "groups": state["groups"][1:]})


class TakesAnything(Buffer):
    def put(self, group: Group) -> None:
        self._groups.pop(group.prompt.index, None)
        super().put(group)


class NeverExpires(Buffer):
    def expire(self, version: int, max_staleness: int) -> list[Group]:
        return []


class ByArrival(Buffer):
    def rank(self, group: Group, staleness: int) -> float:
        return list(self._groups).index(group.prompt.index)


class Generous(Buffer):
    def take(self, n: int, version: int, max_staleness: int, in_flight: Any = ()) -> list[Group]:
        return super().take(n, version, max_staleness) or super().take(len(self), version, max_staleness)


class Uncounted(Buffer):
    def expire(self, version: int, max_staleness: int) -> list[Group]:
        late = super().expire(version, max_staleness)
        self.dropped = 0
        return late


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Forgetful, "resume"),
        (TakesAnything, "twice"),
        (NeverExpires, "expire"),
        (ByArrival, "order"),
        (Generous, "too few"),
        (Uncounted, "dropped"),
    ],
)
def test_a_broken_buffer_fails_by_the_name_of_what_it_breaks(kind: type[Buffer], check: str) -> None:
    assert check in broken(check_buffer(kind))


class WithoutTake:
    dropped = 0

    def __len__(self) -> int:
        return 0

    def put(self, group: Group) -> None:
        pass


class Awaited(Buffer):
    async def take(self, *given: Any, **named: Any) -> list[Group]:  # type: ignore[override]  # what it breaks
        return super().take(*given, **named)


class HandsOutNone(Buffer):
    def take(self, *given: Any, **named: Any) -> Any:
        return None


class CannotBeSaved(Buffer):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rank": lambda group: 0}


@pytest.mark.parametrize(
    ("kind", "check", "found"),
    [
        (WithoutTake, "methods", "take is missing"),
        (Awaited, "methods", "take is `async def`, and is called without await"),
        (HandsOutNone, "take", "None"),
        (CannotBeSaved, "call", "state['rank'] is a builtins.function"),
    ],
)
def test_a_buffer_of_which_nothing_can_be_asked_is_a_finding_and_not_an_exception(
    kind: Any, check: str, found: str
) -> None:
    (finding,) = [one for one in failed(check_buffer(kind)) if one.check == check]
    assert found in finding.found
