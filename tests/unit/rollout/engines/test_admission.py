"""Admission of requests: order, limit, closing, and the times it remembers."""

from __future__ import annotations

import asyncio
import math

from rlscale.rollout.engines.admission import Admission


def test_the_admission_lets_in_first_come_first_served_up_to_its_limit() -> None:
    async def scenario() -> tuple[list[int], int]:
        admission, order, inside, most = Admission(2), [], 0, 0

        async def visit(number: int) -> None:
            nonlocal inside, most
            async with admission:
                order.append(number)
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001 * (number % 3))
                inside -= 1

        await asyncio.gather(*[visit(number) for number in range(20)])
        return order, most

    assert asyncio.run(scenario()) == (list(range(20)), 2)


def test_a_visitor_who_gives_up_leaves_no_hole_in_the_admission() -> None:
    async def scenario() -> int:
        admission = Admission(1)

        async def visit() -> None:
            async with admission:
                await asyncio.sleep(0.01)

        visits = [asyncio.create_task(visit()) for _ in range(5)]
        await asyncio.sleep(0)
        for visit_ in (visits[0], visits[2]):
            visit_.cancel()
        results = await asyncio.wait_for(asyncio.gather(*visits, return_exceptions=True), 30)
        await asyncio.wait_for(admission.close(), 30)
        return sum(isinstance(result, asyncio.CancelledError) for result in results)

    assert asyncio.run(scenario()) == 2


def test_an_interval_that_goes_on_is_cut_and_continued() -> None:
    async def scenario() -> list[tuple[float, float]]:
        admission = Admission(1)
        async with admission:
            await asyncio.sleep(0.02)
            first = admission.intervals()
            await asyncio.sleep(0.02)
        return first + admission.intervals()

    (first, second) = asyncio.run(scenario())
    assert first[1] == second[0]
    assert math.isclose(second[1] - first[0], 0.04, abs_tol=0.03)


def test_those_with_an_order_enter_lowest_first() -> None:
    async def scenario() -> list[tuple[int, int]]:
        admission, entered = Admission(1, is_open=False), []

        async def visit(*order: int) -> None:
            async with admission.at(*order):
                entered.append(order)
                await asyncio.sleep(0)

        visits = [asyncio.create_task(visit(*order)) for order in ((3, 0), (1, 2), (3, 0), (1, 1), (2, 0))]
        await asyncio.sleep(0)
        admission.open()
        await asyncio.gather(*visits)
        return entered

    assert asyncio.run(scenario()) == [(1, 1), (1, 2), (2, 0), (3, 0), (3, 0)]


def test_a_way_in_may_be_used_again_and_keeps_its_place() -> None:
    async def scenario() -> list[str]:
        admission, entered = Admission(1), []

        async def visit(name: str, turns: int, *order: int) -> None:
            way = admission.at(*order)
            for _ in range(turns):
                async with way:
                    entered.append(name)
                    await asyncio.sleep(0)

        await asyncio.gather(visit("old", 2, 1), visit("new", 2, 2), visit("newer", 1, 3))
        return entered

    assert asyncio.run(scenario()) == ["old", "new", "old", "new", "newer"]


def test_another_limit_lets_more_in_and_sends_nobody_away() -> None:
    async def scenario() -> list[int]:
        admission, leave, seen = Admission(2), asyncio.Event(), []

        async def visit() -> None:
            async with admission:
                await leave.wait()

        visits = [asyncio.create_task(visit()) for _ in range(6)]
        await asyncio.sleep(0)
        seen.append(admission.inside)
        for limit in (4, 1):
            admission.limit = limit
            await asyncio.sleep(0)
            seen.append(admission.inside)
        leave.set()
        await asyncio.gather(*visits)
        return [*seen, admission.inside, admission.limit]

    assert asyncio.run(scenario()) == [2, 4, 4, 0, 1]
