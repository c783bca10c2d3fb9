"""What the numbers of a run's last iterations advise, each with its reason. Pure functions on recent metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from rlscale.observe.formatting import figure, percent

ITERATIONS = 20
"""Iterations that are looked at."""
_FEWEST = 3
Recent = Callable[[str], list[float]]
"""The newest values of a metric, ITERATIONS of them at most; [] where it was never measured."""


@dataclass(frozen=True)
class Advice:
    """One piece of advice."""

    what: str
    """What was measured, in words."""
    change: str
    """What may be done about it, and what that costs."""


def advise_by_rows(rows: Sequence[Mapping[str, Any]]) -> list[Advice]:
    """The same of the metrics of a run, one mapping for each iteration."""

    def recent(name: str) -> list[float]:
        values = (row.get(name) for row in rows)
        return [float(value) for value in values if isinstance(value, (int, float))][-ITERATIONS:]

    return advise(recent)


def advise(recent: Recent) -> list[Advice]:
    """Everything that there is to say; nothing before the third iteration."""
    iterations = len(recent("seconds_loop"))
    if iterations < _FEWEST:
        return []
    return [advice for check in CHECKS for advice in check(recent, iterations)]


def waiting_for_engines(recent: Recent, iterations: int) -> Iterator[Advice]:
    """The trainer waits for groups most of the time."""
    share = _share(recent, "seconds_generate")
    if share > 0.5:
        waiting = mean(recent("prompts/ready"))
        behind = "" if waiting < 1 else f" (and {figure(waiting)} finished groups were ready)"
        yield Advice(
            f"the trainer waited {percent(share)} of the last {iterations} iterations for the engines{behind}",
            "more engines; or a higher rollout.max_staleness, with cluster.placement=disaggregated, so that they "
            "generate while it trains",
        )


def waiting_for_trainer(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Nothing is generated while the trainer trains."""
    train, age = _share(recent, "seconds_train"), mean(recent("staleness_max"))
    if train > 0.4 and not age > 0 and recent("tokens_generated"):
        yield Advice(
            f"engines waited {percent(train)} of the last {iterations} iterations for the trainer",
            "rollout.max_staleness=1 with cluster.placement=disaggregated lets them go on; so do more trainer ranks",
        )


def syncing(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Giving engines their weights takes long."""
    share = _share(recent, "seconds_sync")
    if share > 0.15:
        yield Advice(
            f"{percent(share)} of the last {iterations} iterations went into giving the engines new weights",
            "more work per iteration (rollout.groups_per_iteration), or another weights.transport",
        )


def other_work(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Evaluations and checkpoints hold the loop up."""
    share = _share(recent, "seconds_other")
    if share > 0.25:
        yield Advice(
            f"{percent(share)} of the last {iterations} iterations was evaluation, checkpoints and other work",
            "eval.engines=N evaluates beside the training; eval.every and checkpoint.every less often",
        )


def no_signal(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Groups whose samples all have the same reward teach nothing."""
    equal, groups = mean(recent("groups_without_signal")), mean(recent("groups"))
    share = equal / groups if groups > 0 else nan
    if share > 0.5:
        reward = mean(recent("reward"))
        easy = "harder" if reward > 0.5 else "easier"
        yield Advice(
            f"{percent(share)} of the groups had equal rewards (mean reward {figure(reward)}), which teach nothing",
            f"{easy} prompts, more samples per group, or algo.refill.drop_equal=true to replace them",
        )


def truncated(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Responses end at the limit."""
    share = mean(recent("truncated"))
    if share > 0.2:
        yield Advice(
            f"{percent(share)} of the responses were cut at rollout.max_response_tokens",
            "a higher limit (python -m rlscale plan says what it costs), or algo.overlong.penalty to make them shorter",
        )


def disagreement(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Trainer and engines think differently of the same tokens."""
    difference = mean(recent("logprob_diff_mean"))
    if difference > 0.02:
        yield Advice(
            f"log-probs of trainer and engines differ by {figure(difference)} on the same weights",
            "algo/correction=tis or icepop; look at what differs with python -m rlscale weights compare",
        )


def collapse(recent: Recent, iterations: int) -> Iterator[Advice]:
    """The policy has become nearly deterministic while it could still learn."""
    entropy, reward = recent("entropy"), mean(recent("reward"))
    if entropy and entropy[-1] < 0.02 and reward < 0.9:
        yield Advice(
            f"entropy fell to {figure(entropy[-1])} at a mean reward of {figure(reward)}: the policy tries little",
            "a higher upper clip (algo.loss.eps_high), a lower optim.lr, or an entropy bonus",
        )


def skipped(recent: Recent, iterations: int) -> Iterator[Advice]:
    """Steps that left the weights alone."""
    steps = sum(recent("skipped_steps"))
    if steps:
        yield Advice(
            f"{steps:.0f} steps of the last {iterations} iterations were skipped, as gradients were not finite",
            "a lower optim.lr, or trainer.max_skipped_steps lower to stop sooner",
        )


CHECKS: tuple[Callable[[Recent, int], Iterator[Advice]], ...] = (
    skipped,
    waiting_for_engines,
    waiting_for_trainer,
    syncing,
    other_work,
    no_signal,
    truncated,
    disagreement,
    collapse,
)


def mean(values: list[float]) -> float:
    """The mean of those that are finite; NaN without any, which is above no bound."""
    known = [value for value in values if isfinite(value)]
    return sum(known) / len(known) if known else nan


def _share(recent: Recent, name: str) -> float:
    """Of the loop's time in these iterations."""
    loop = sum(value for value in recent("seconds_loop") if isfinite(value))
    return sum(value for value in recent(name) if isfinite(value)) / loop if loop > 0 else nan
