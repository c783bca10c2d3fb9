"""What ends again and again is not started for ever, and a long run's servers are started as often as it takes."""

from __future__ import annotations

from rlscale.run.sides.restart_budget import RestartBudget


def test_each_server_has_its_own_restarts_and_those_of_an_hour_ago_count_no_more() -> None:
    now = [0.0]
    budget = RestartBudget(lambda: now[0])
    for now[0] in (0.0, 1800.0):
        budget.spend("engine-0")
    assert (budget.left("engine-0", 2, 300.0), budget.left("engine-1", 2, 300.0)) == (0, 2)
    now[0] = 3600.0
    assert budget.left("engine-0", 2, 300.0) == 1
    budget.spend("engine-0")
    budget.give_back("engine-0")
    assert budget.left("engine-0", 2, 300.0) == 1


def test_starts_that_take_long_are_not_made_for_ever() -> None:
    now = [0.0]
    budget, starts = RestartBudget(lambda: now[0]), 0
    while budget.left("engine-0", 5, 1200.0) > 0:
        budget.spend("engine-0")
        starts += 1
        now[0] += 1200.0
        assert starts < 10
    assert starts == 5
