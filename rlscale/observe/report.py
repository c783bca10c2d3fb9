"""report.html: one page about a run, from the files in its folder. It loads nothing and needs no server."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rlscale.observe import token_view
from rlscale.observe.advice import advise_by_rows
from rlscale.observe.answers import before_and_after, by_iteration
from rlscale.observe.atomic import write_text
from rlscale.observe.conversation_cards import conversation_cards
from rlscale.observe.conversations import Conversations, read_conversations
from rlscale.observe.curves import Rows, cards, health, lead, learning, points, scheduling
from rlscale.observe.fates import fates
from rlscale.observe.formatting import count, duration, figure, html_text, percent
from rlscale.observe.load_log import engine_loads, read_engine_loads
from rlscale.observe.metrics import read_metrics
from rlscale.observe.samples import ShownSample, read_samples
from rlscale.observe.summary import Summary
from rlscale.observe.time_charts import phase_bar, timeline_chart
from rlscale.observe.timeline import Span, read_timeline

FILE = "report.html"


def write_report(folder: Path) -> Path:
    """Write report.html from metrics, timeline, samples, stored rollouts, summary and resolved.yaml; its path.

    A file that is missing leaves its section out: the report of a run that died is still worth reading.
    """
    summary = Summary.read(folder)
    resolved = folder / "resolved.yaml"
    page = render(
        folder,
        summary or Summary(status="unknown"),
        rows=read_metrics(folder),
        loads=read_engine_loads(folder),
        spans=read_timeline(folder),
        samples=read_samples(folder),
        conversations=read_conversations(folder),
        config=resolved.read_text(encoding="utf-8", errors="replace") if resolved.is_file() else "",
    )
    write_text(folder / FILE, page)
    return folder / FILE


def render(
    folder: Path,
    summary: Summary,
    *,
    rows: Rows,
    loads: Rows,
    spans: Sequence[Span],
    samples: Sequence[ShownSample],
    conversations: Conversations,
    config: str,
) -> str:
    """The whole page as text."""
    recipe = summary.recipe or folder.resolve().parent.name
    body = [
        _header(folder, recipe, summary, rows),
        _tiles(summary, rows),
        _advice(rows),
        _section("Learning", lead(rows, _accuracy(summary).lower()) + cards(learning(rows, summary))),
        _section("Trainer and engines", cards(health(rows))),
        _section("What became of prompts and tokens", cards([*scheduling(rows), *engine_loads(loads)]) + fates(rows)),
        _section("Where the time went", phase_bar(summary) + timeline_chart(spans)),
        _section("Before and after", before_and_after(samples)),
        _section("During training", by_iteration(samples)),
        _section("Conversations", conversation_cards(conversations)),
        _section("Configuration", _config(config)),
        f"<footer>Written by rlscale on {time.strftime('%Y-%m-%d at %H:%M')}. This page loads nothing.</footer>",
    ]
    here = files("rlscale.observe")
    style, own = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    script = own + token_view.script()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html_text(f'{recipe}: {summary.status}')}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{script}</script></body></html>\n"
    )


def _policy(script: str) -> str:
    """What a browser lets the page do: run this one script and draw, whatever text of the run is in it."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
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


def _advice(rows: Rows) -> str:
    """What the last iterations call for; nothing where they call for nothing."""
    return "".join(
        f'<div class="card advice"><b>{html_text(one.what)}</b><p>{html_text(one.change)}</p></div>'
        for one in advise_by_rows(rows)
    )


def _startup(summary: Summary) -> str:
    return f"{duration(summary.startup_seconds)} of it starting up" if summary.startup_seconds else ""


def _accuracy_tile(summary: Summary, rows: Rows) -> str:
    """The lead: accuracy before and after; the loss where nothing was evaluated."""
    before, after = summary.eval_before, summary.eval_after
    if before is None and after is None:
        losses = points(rows, "loss")
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
    when = " and ".join(name for name, value in (("before", before), ("after", after)) if value is not None)
    told = [f"{when} training", *more]
    if summary.eval_trained_on:
        told.insert(1, f"{summary.eval_trained_on:,} of its prompts are trained on")
    return _tile(f"{_accuracy(summary)} (pass@1)", value, "  ·  ".join(told), lead=True)


def _accuracy(summary: Summary) -> str:
    """What the evaluation's accuracy is called: held-out only where none of its prompts is known to be trained on."""
    return "Held-out accuracy" if summary.eval_trained_on == 0 else "Accuracy in evaluation"


def _tile(name: str, value: str, more: str, *, lead: bool = False) -> str:
    """A tile; `value` is HTML made here from numbers only."""
    return (
        f'<div class="card tile{" lead" if lead else ""}"><div class="name">{html_text(name)}</div>'
        f'<div class="value">{value}</div><div class="more">{html_text(more)}</div></div>'
    )


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
