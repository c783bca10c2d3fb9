"""The time that generating takes, against hand-computed numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.running_batch import RunningBatch, Slot

CONFIG = SimulatedEngineConfig(decode_s=1.0, half_batch=10.0, prefill_tokens_per_s=100.0, slots=3, cache_tokens=10_000)


Started = tuple[RunningBatch[str], list[Slot[str]]]


def started(*lengths: int, context: int = 0, config: SimulatedEngineConfig = CONFIG) -> Started:
    batch: RunningBatch[str] = RunningBatch(config)
    slots = [Slot("", context, length) for length in lengths]
    for slot in slots:
        batch.admit(slot, 0)
    return batch, slots


def test_a_step_takes_longer_the_more_requests_share_it() -> None:
    batch, (short, long) = started(5, 10)
    assert batch.next_event() == pytest.approx(5 * 1.2)  # two requests: 1 + 2/10
    batch.advance(6.0)
    assert batch.finished() == [short]
    assert batch.generated(long) == 5
    assert batch.next_event() == pytest.approx(6.0 + 5 * 1.1)  # one is left
    batch.advance(11.5)
    assert batch.finished() == [long]
    assert (batch.tokens, batch.next_event()) == (15, None)
    assert batch.busy_s == pytest.approx(11.5)
    assert batch.slot_s == pytest.approx(2 * 6.0 + 5.5)


def test_nobody_decodes_while_a_prompt_is_read() -> None:
    batch, (first,) = started(10, context=50)
    batch.advance(0.5 + 2.2)  # half a second of reading, then two steps of 1.1 s
    assert batch.generated(first) == 2
    batch.admit(Slot("", 100, 10), cached=60)  # 40 tokens at 100 per second
    batch.advance(2.7 + 0.4)
    assert batch.generated(first) == 2
    batch.advance(3.1 + 1.2)
    assert batch.generated(first) == 3


def test_the_cache_holds_prompts_and_what_was_generated_behind_them() -> None:
    batch, (first, second) = started(10, 20, context=50)
    batch.advance(1.0 + 3.6)
    assert batch.used == pytest.approx(2 * 53)
    batch.leave(first)
    assert batch.used == pytest.approx(53)
    batch.leave(second)
    assert (batch.used, first.done, second.done) == (0, 3, 3)


def test_when_the_cache_is_full_the_shortest_response_leaves() -> None:
    config = replace(CONFIG, cache_tokens=130)
    batch, (first,) = started(40, context=40, config=config)
    batch.advance(0.4 + 10 * 1.1)
    second = Slot("", 40, 40)
    assert batch.fits(second, 0)
    batch.admit(second, 0)
    full_at = batch.next_event()
    assert full_at == pytest.approx(11.4 + 0.4 + 20 * 1.2)  # 50 and 40 tokens now; 40 are free: 20 steps of two
    batch.advance(full_at)
    assert batch.preempted() == [second]
    assert (second.done, second.retracted, batch.generated(first)) == (20, 1, 30)
    assert not batch.fits(second, 0)  # 70 + 60 would be over nine tenths of 130


def test_a_request_that_was_out_goes_on_from_what_it_had() -> None:
    batch, (first,) = started(10)
    batch.advance(4 * 1.1)
    batch.leave(first)
    assert first.done == 4
    batch.admit(first, 0)
    assert batch.next_event() == pytest.approx(4.4 + 0.04 + 6 * 1.1)  # four tokens are read again


def test_there_are_as_many_slots_as_it_says_and_none_while_it_is_frozen() -> None:
    batch, slots = started(5, 5, 5)
    assert not batch.fits(Slot("", 0, 1), 0)
    batch.leave(slots[0])
    assert batch.fits(Slot("", 0, 1), 0)
    batch.frozen = True
    batch.advance(100.0)
    assert not batch.fits(Slot("", 0, 1), 0)
    assert (batch.next_event(), batch.generated(slots[1])) == (None, 0)
    batch.frozen = False
    assert batch.next_event() == pytest.approx(100 + 5 * 1.2)


def test_a_request_larger_than_the_whole_cache_runs_alone() -> None:
    batch, _ = started(10, context=200, config=replace(CONFIG, cache_tokens=100))
    assert batch.preempted() == []
    assert batch.next_event() == pytest.approx(2 + 11)
