"""Which metrics the report draws, and how they are grouped into charts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlscale.observe.charts import Chart, Point, Series
from rlscale.observe.formatting import html_text
from rlscale.observe.summary import Summary

Rows = Sequence[Mapping[str, Any]]

PASS_1 = ("eval/pass@1", "eval_pass@1", "pass@1")
_PASS_K = re.compile(r"(?:eval/)?pass@(\d+)")
_COLORS = 5
_PART = "reward_part/"


def points(rows: Rows, *keys: str) -> list[Point]:
    """(iteration, value) of the first of the keys that a row has."""
    found = []
    for row in rows:
        value = next((row[key] for key in keys if isinstance(row.get(key), (int, float))), None)
        if value is not None:
            found.append((float(row["iteration"]), float(value)))
    return found


def lead(rows: Rows, accuracy: str) -> str:
    """The main chart, as HTML for wide and for narrow screens; `accuracy` is what the evaluation's is called."""
    reward = Series("reward", points(rows, "reward"), 1)
    evaluated = Series(accuracy, points(rows, *PASS_1), 2, dots=True)
    inside = all(0 <= value <= 1 for _, value in reward.points)
    chart = Chart("Reward and accuracy", [reward, evaluated], bounds=(0.0, 1.0) if inside else None, zero=True)
    if not reward.points:
        chart = Chart("Loss", [Series("loss", points(rows, "loss"), 1), evaluated], zero=True)
    wide, narrow = replace(chart, width=1080, height=280).svg(), replace(chart, height=230).svg()
    return f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>' if wide else ""


def learning(rows: Rows, summary: Summary) -> list[Chart]:
    """How the policy and the critic change."""
    kl = [
        Series("PPO KL", points(rows, "ppo_kl"), 1),
        Series("to reference", points(rows, "kl", "kl_reward"), 2),
        Series("to teacher", points(rows, "teacher_kl"), 3),
    ]
    shares = [
        Series("truncated", points(rows, "truncated"), 5),
        Series("clipped low", points(rows, "clip_fraction_low"), 3),
        Series("clipped high", points(rows, "clip_fraction_high"), 4),
    ]
    charts = [
        *pass_at_k(rows, summary),
        Chart("Entropy", [Series("nats per token", points(rows, "entropy"), 3)]),
        Chart("KL", kl),
        Chart("Response length", [Series("tokens", points(rows, "response_length"), 4)]),
        Chart("Shares of tokens and samples", shares, form="percent"),
        *_of_environments(rows),
    ]
    if points(rows, "reward"):
        charts.append(Chart("Loss", [Series("loss", points(rows, "loss"), 1)]))
    norms = [Series("before clipping", points(rows, "grad_norm"), 3)]
    critic_norm = Series("critic's", points(rows, "critic_grad_norm"), 2)
    charts.append(Chart("Gradient norm", [*norms, critic_norm] if critic_norm.points else norms))
    charts.append(Chart("Critic's loss", [Series("loss", points(rows, "critic_loss"), 1)]))
    explained = Series("of the returns", points(rows, "explained_variance"), 2)
    charts.append(Chart("Critic's explained variance", [explained]))
    return charts


def _of_environments(rows: Rows) -> list[Chart]:
    """What an environment made of it: how hard its prompts were, how many turns were taken, what rewards consist of."""
    turns = [
        Series("turns", points(rows, "turns"), 1),
        Series("segments", points(rows, "segments"), 2),
        Series("tokens over those of one segment", points(rows, "segment_duplication"), 3),
    ]
    parts = sorted({key for row in rows for key in row if key.startswith(_PART)})
    rewards = [Series(key.removeprefix(_PART), points(rows, key), at + 1) for at, key in enumerate(parts[:_COLORS])]
    return [
        Chart("Difficulty of the prompts", [Series("mean", points(rows, "difficulty"), 2, smooth=False)]),
        Chart("Turns and segments of a sample", turns),
        Chart("Parts of the reward", rewards),
    ]


def pass_at_k(rows: Rows, summary: Summary) -> list[Chart]:
    """pass@k over the run for every k, and over k before and after training; nothing where only pass@1 was measured."""
    ks = sorted({int(match[1]) for row in rows for key in row if (match := _PASS_K.fullmatch(key))})
    if len(ks) < 2:
        return []
    every = -(-len(ks) // _COLORS)
    curves = [
        Series(f"pass@{k}", points(rows, f"eval/pass@{k}", f"pass@{k}"), number + 1, dots=True)
        for number, k in enumerate(ks[::every])
    ]
    measured = {"before": summary.eval_before_metrics, "after": summary.eval_after_metrics}
    by_k = [
        Series(when, [(float(k), found[f"pass@{k}"]) for k in ks if f"pass@{k}" in found], color, dots=True)
        for color, (when, found) in enumerate(measured.items(), start=1)
        if found
    ]
    return [
        Chart("pass@k in evaluations", curves, form="percent", zero=True),
        Chart("pass@k by k", by_k, form="percent", x_name="k =", zero=True),
    ]


def health(rows: Rows) -> list[Chart]:
    """Whether trainer and engines agree, and how fast they are."""
    difference = [
        Series("mean", points(rows, "logprob_diff_mean"), 1),
        Series("largest", points(rows, "logprob_diff_max"), 2),
    ]
    speed = [
        Series("whole loop", points(rows, "tokens_per_s"), 1),
        Series("trainer", points(rows, "train_tokens_per_s"), 2),
    ]
    return [
        Chart("Trainer vs engine log-prob", difference, log=True),
        Chart("Tokens per second", speed, form="count"),
        Chart("Learning rate", [Series("rate", points(rows, "lr"), 4, smooth=False)]),
    ]


def scheduling(rows: Rows) -> list[Chart]:
    """How far generation runs ahead, and whether it prefers short responses."""
    staleness = [
        Series("mean", points(rows, "staleness_mean"), 5),
        Series("largest", points(rows, "staleness_max"), 1, smooth=False),
    ]
    groups = [
        Series("ready", points(rows, "prompts/ready"), 2),
        Series("under way", points(rows, "prompts/under_way"), 3),
    ]
    return [
        Chart("Staleness", staleness),
        Chart("Trained length over started length", [Series("ratio", points(rows, "length_ratio"), 4)]),
        Chart("Groups that no batch has taken", groups),
    ]


def cards(charts: Sequence[Chart]) -> str:
    """The charts' cards, and in words what is zero throughout and so has none."""
    drawn = "".join(chart.svg() for chart in charts)
    zeros = [name for chart in charts for name in chart.left_out]
    note = f'<p class="note">Zero throughout: {html_text(", ".join(zeros))}.</p>' if zeros else ""
    return (f'<div class="charts">{drawn}</div>' if drawn else "") + note
