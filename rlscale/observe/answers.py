"""The report's tables of answers: those of the evaluations before and after training, and those of any iteration."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.observe.conversations import even
from rlscale.observe.formatting import figure, html_text
from rlscale.observe.samples import AFTER, BEFORE, TRAINING, ShownSample

MOST_ITERATIONS = 40
"""Iterations to choose from on the page; of more, these many at even distances. samples.jsonl has all of them."""

_LONGEST_TEXT = 2000


def before_and_after(samples: Sequence[ShownSample]) -> str:
    """One row for each prompt that was evaluated before or after training; empty if there is none."""
    rows: dict[object, dict[str, ShownSample]] = {}
    for sample in samples:
        if sample.phase in (BEFORE, AFTER):
            prompt = sample.prompt if sample.index is None else sample.index
            rows.setdefault(prompt, {})[sample.phase] = sample
    if not rows:
        return ""
    body = []
    for answers in rows.values():
        any_of_them = next(iter(answers.values()))
        body.append([*_asked(any_of_them), _answer(answers.get(BEFORE)), _answer(answers.get(AFTER))])
    return f'<div class="card scroll">{_table(["Prompt", "Label", "Before", "After"], body)}</div>'


def by_iteration(samples: Sequence[ShownSample]) -> str:
    """The answers that were trained on and those of evaluations in between, with a choice of the iteration."""
    parts: dict[tuple[int, bool], list[ShownSample]] = {}
    for sample in samples:
        if sample.phase not in (BEFORE, AFTER):
            parts.setdefault((sample.iteration, sample.phase != TRAINING), []).append(sample)
    if not parts:
        return ""
    keys = even(sorted(parts), MOST_ITERATIONS)
    options, tables = [], []
    for key in keys:
        last, (iteration, evaluated) = key == keys[-1], key
        name = f"iteration {iteration:,}{', evaluation' if evaluated else ''}"
        options.append(f"<option{' selected' if last else ''}>{name}</option>")
        body = [[*_asked(sample), _answer(sample)] for sample in parts[key]]
        tables.append(f"<div{'' if last else ' hidden'}>{_table(['Prompt', 'Label', 'Answer'], body)}</div>")
    left_out = f" <em>{len(keys)} of {len(parts):,}; samples.jsonl has all.</em>" if len(keys) < len(parts) else ""
    return (
        f'<div class="card scroll" data-choice><label class="choice">Answers of <select>{"".join(options)}</select>'
        f"{left_out}</label>{''.join(tables)}</div>"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in headings)
    body = []
    for row in rows:
        cells = zip(headings, row, strict=True)
        body.append("".join(f'<td data-name="{name}" class="{name.lower()}">{cell}</td>' for name, cell in cells))
    return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{'</tr><tr>'.join(body)}</tr></tbody></table>"


def _asked(sample: ShownSample) -> list[str]:
    label = "" if sample.label is None else str(sample.label)
    return [f"<pre>{_text(sample.prompt)}</pre>", f"<pre>{_text(label)}</pre>"]


def _answer(sample: ShownSample | None) -> str:
    if sample is None:
        return ""
    reward = ""
    if isinstance(sample.reward, (int, float)):
        reward = f'<span class="reward {_verdict(sample)}">reward {figure(sample.reward)}</span>'
    # Special tokens at the end say only that the answer ended; elsewhere they are a part of it.
    raw = sample.raw_response
    text = sample.response if not raw or raw.startswith(sample.response) else raw
    return f"{reward}<pre>{_text(text)}</pre>"


def _verdict(sample: ShownSample) -> str:
    """Green only for what counts as solved; yellow for a part of the reward, red for none."""
    if sample.solved is None or sample.reward is None:
        return "unjudged"
    if sample.solved:
        return "solved"
    return "partial" if sample.reward > 0 else "failed"


def _text(text: str) -> str:
    return html_text(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …")
