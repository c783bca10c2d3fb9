"""report.html: one page about a run, from the files in its folder. It loads nothing and needs no server."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlscale.observe.atomic import write_text
from rlscale.observe.charts import Chart, Point, Series
from rlscale.observe.metrics import read_metrics
from rlscale.observe.samples import ShownSample, read_samples
from rlscale.observe.summary import Summary
from rlscale.observe.time_charts import phase_bar, timeline_chart
from rlscale.observe.timeline import Span, read_timeline
from rlscale.observe.words import count, duration, figure, html_text, percent

FILE = "report.html"

EVAL_KEYS = ("eval/pass@1", "eval_pass@1", "pass@1")
_LONGEST_TEXT = 2000

Rows = Sequence[Mapping[str, Any]]


def write_report(folder: Path) -> Path:
    """Write report.html from metrics.jsonl, timeline.jsonl, samples.jsonl, summary.json and resolved.yaml; its path.

    A file that is missing leaves its section out: the report of a run that died is still worth reading.
    """
    summary = Summary.read(folder)
    resolved = folder / "resolved.yaml"
    page = render(
        folder,
        summary or Summary(status="unknown"),
        rows=read_metrics(folder),
        spans=read_timeline(folder),
        samples=read_samples(folder),
        config=resolved.read_text(encoding="utf-8", errors="replace") if resolved.is_file() else "",
    )
    write_text(folder / FILE, page)
    return folder / FILE


def render(
    folder: Path, summary: Summary, *, rows: Rows, spans: Sequence[Span], samples: Sequence[ShownSample], config: str
) -> str:
    """The whole page as text."""
    recipe = summary.recipe or folder.resolve().parent.name
    body = [
        _header(folder, recipe, summary, rows),
        _tiles(summary, rows),
        _section("Learning", _hero(rows) + _charts(_learning(rows))),
        _section("Trainer and engines", _charts(_health(rows))),
        _section("Where the time went", phase_bar(summary) + timeline_chart(spans)),
        _section("Before and after", _samples(samples)),
        _section("Configuration", _config(config)),
        f"<footer>Written by rlscale on {time.strftime('%Y-%m-%d at %H:%M')}. This page loads nothing.</footer>",
    ]
    here = files("rlscale.observe")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html_text(f'{recipe}: {summary.status}')}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>\n{script}</script></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _header(folder: Path, recipe: str, summary: Summary, rows: Rows) -> str:
    status = summary.status
    css = status if status in ("finished", "failed") else ""
    started = next((row["time"] for row in rows if isinstance(row.get("time"), (int, float))), None)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) + " · " if started else ""
    message = f'<p class="message">{html_text(summary.message)}</p>' if summary.message else ""
    where = html_text("/".join(folder.resolve().parts[-3:]))
    return (
        f'<header><h1>{html_text(recipe)}</h1><span class="chip {css}">{html_text(status)}</span>'
        f'<div class="where">{when}{where}</div></header>{message}'
    )


def _tiles(summary: Summary, rows: Rows) -> str:
    iterations = summary.iterations or max((int(row["iteration"]) for row in rows), default=0)
    tiles = [_accuracy_tile(summary, rows)]
    if summary.wall_seconds:
        tiles.append(_tile("Wall time", duration(summary.wall_seconds), _startup(summary)))
    steps = f"{summary.steps:,} optimizer step{'s' if summary.steps > 1 else ''}" if summary.steps else ""
    tiles.append(_tile("Iterations", f"{iterations:,}", steps))
    if summary.tokens_generated:
        trained = f"{count(summary.tokens_trained)} trained on" if summary.tokens_trained else ""
        tiles.append(_tile("Tokens generated", count(summary.tokens_generated), trained))
    elif summary.tokens_trained:
        tiles.append(_tile("Tokens trained on", count(summary.tokens_trained), ""))
    if summary.logprob_diff_mean is not None:
        more = f"mean; largest {figure(summary.logprob_diff_max)}" if summary.logprob_diff_max is not None else "mean"
        tiles.append(_tile("Trainer vs engine log-prob", figure(summary.logprob_diff_mean), more))
    if summary.loop_seconds > 0:
        inside = summary.generate_seconds + summary.train_seconds + summary.sync_seconds
        tiles.append(_tile("Time at work", percent(inside / summary.loop_seconds), "generating, training, syncing"))
    if summary.ppo_kl_first_step is not None:
        tiles.append(_tile("First-step PPO KL", figure(summary.ppo_kl_first_step), "old log-probs computed apart"))
    if summary.explained_variance is not None:
        more = f"its loss {figure(summary.critic_loss)}" if summary.critic_loss is not None else ""
        tiles.append(_tile("Critic's explained variance", figure(summary.explained_variance), more))
    return f'<div class="tiles">{"".join(tile for tile in tiles if tile)}</div>'


def _startup(summary: Summary) -> str:
    return f"{duration(summary.startup_seconds)} of it starting up" if summary.startup_seconds else ""


def _accuracy_tile(summary: Summary, rows: Rows) -> str:
    """The lead: accuracy before and after; the loss where nothing was evaluated."""
    before, after = summary.eval_before, summary.eval_after
    if before is None and after is None:
        losses = _points(rows, "loss")
        if not losses:
            return ""
        return _tile(
            "Loss", f"<small>{figure(losses[0][1])} →</small> {figure(losses[-1][1])}", "first and last", lead=True
        )
    first = f"<small>{percent(before)} →</small> " if before is not None else ""
    value = first + (percent(after) if after is not None else "…")
    more = [
        f"{name} {figure(number)}" for name, number in (summary.eval_after_metrics or {}).items() if name != "pass@1"
    ]
    return _tile("Held-out accuracy (pass@1)", value, "  ·  ".join(["before and after training", *more]), lead=True)


def _tile(name: str, value: str, more: str, *, lead: bool = False) -> str:
    """A tile; `value` is HTML made here from numbers only."""
    return (
        f'<div class="card tile{" lead" if lead else ""}"><div class="name">{html_text(name)}</div>'
        f'<div class="value">{value}</div><div class="more">{html_text(more)}</div></div>'
    )


def _points(rows: Rows, *keys: str) -> list[Point]:
    """(iteration, value) of the first of the keys that a row has."""
    points = []
    for row in rows:
        value = next((row[key] for key in keys if isinstance(row.get(key), (int, float))), None)
        if value is not None:
            points.append((float(row["iteration"]), float(value)))
    return points


def _hero(rows: Rows) -> str:
    reward = Series("reward", _points(rows, "reward"), 1)
    accuracy = Series("held-out accuracy", _points(rows, *EVAL_KEYS), 2, dots=True)
    inside = all(0 <= value <= 1 for _, value in reward.points)
    chart = Chart(
        "Reward and accuracy", [reward, accuracy], bounds=(0.0, 1.0) if inside else None, width=1080, height=280
    )
    if not reward.points:
        loss = Series("loss", _points(rows, "loss"), 1)
        chart = Chart("Loss", [loss, accuracy], width=1080, height=280)
    return chart.svg()


def _learning(rows: Rows) -> list[Chart]:
    kl = [
        Series("PPO KL", _points(rows, "ppo_kl"), 1),
        Series("to reference", _points(rows, "kl", "kl_reward"), 2),
        Series("to teacher", _points(rows, "teacher_kl"), 3),
    ]
    shares = [
        Series("truncated", _points(rows, "truncated"), 5),
        Series("clipped low", _points(rows, "clip_fraction_low"), 3),
        Series("clipped high", _points(rows, "clip_fraction_high"), 4),
    ]
    charts = [
        Chart("Entropy", [Series("nats per token", _points(rows, "entropy"), 3)]),
        Chart("KL", kl),
        Chart("Response length", [Series("tokens", _points(rows, "response_length"), 4)]),
        Chart("Shares of tokens and samples", [s for s in shares if any(y for _, y in s.points)], form="percent"),
    ]
    if _points(rows, "reward"):
        charts.append(Chart("Loss", [Series("loss", _points(rows, "loss"), 1)]))
    norms = [Series("before clipping", _points(rows, "grad_norm"), 3)]
    critic_norm = Series("critic's", _points(rows, "critic_grad_norm"), 2)
    charts.append(Chart("Gradient norm", [*norms, critic_norm] if critic_norm.points else norms))
    charts.append(Chart("Critic's loss", [Series("loss", _points(rows, "critic_loss"), 1)]))
    explained = Series("of the returns", _points(rows, "explained_variance"), 2)
    charts.append(Chart("Critic's explained variance", [explained]))
    return charts


def _health(rows: Rows) -> list[Chart]:
    difference = [
        Series("mean", _points(rows, "logprob_diff_mean"), 1),
        Series("largest", _points(rows, "logprob_diff_max"), 2),
    ]
    speed = [
        Series("whole loop", _points(rows, "tokens_per_s"), 1),
        Series("trainer", _points(rows, "train_tokens_per_s"), 2),
    ]
    lag = _points(rows, "staleness_mean")
    return [
        Chart("Trainer vs engine log-prob", difference, log=True),
        Chart("Tokens per second", speed, form="count"),
        Chart("Learning rate", [Series("rate", _points(rows, "lr"), 4, smooth=False)]),
        Chart("Staleness", [Series("versions", lag if any(y for _, y in lag) else [], 5)]),
    ]


def _charts(charts: Sequence[Chart]) -> str:
    cards = "".join(chart.svg() for chart in charts)
    return f'<div class="charts">{cards}</div>' if cards else ""


def _samples(samples: Sequence[ShownSample]) -> str:
    if not samples:
        return ""
    by_prompt: dict[str, dict[str, ShownSample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {}).setdefault(sample.phase, sample)
    body = []
    for prompt, phases in by_prompt.items():
        label = next((str(s.label) for s in phases.values() if s.label is not None), "")
        cells = "".join(f'<td class="{phase}">{_answer(phases.get(phase))}</td>' for phase in ("before", "after"))
        body.append(f"<tr><td><pre>{_text(prompt)}</pre></td><td><pre>{_text(label)}</pre></td>{cells}</tr>")
    head = "<tr><th>Prompt</th><th>Label</th><th>Before</th><th>After</th></tr>"
    return f'<div class="card scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def _answer(sample: ShownSample | None) -> str:
    if sample is None:
        return ""
    reward = ""
    if isinstance(sample.reward, (int, float)):
        reward = f'<span class="reward{" solved" if sample.reward > 0 else ""}">reward {figure(sample.reward)}</span>'
    return f"{reward}<pre>{_text(sample.response)}</pre>"


def _text(text: str) -> str:
    return html_text(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …")


def _config(config: str) -> str:
    if not config.strip():
        return ""
    lines = []
    for line in html_text(config).split("\n"):
        if line.lstrip().startswith("#"):
            lines.append(f'<span class="comment">{line}</span>')
        else:
            lines.append(re.sub(r"^(\s*(?:- )?)([\w.@/-]+)(:)", r'\1<span class="key">\2</span>\3', line))
    newline = "\n"
    return f'<details class="card"><summary>resolved.yaml</summary><pre>{newline.join(lines)}</pre></details>'
