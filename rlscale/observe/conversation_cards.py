"""The report's conversations: what was shown and what was sampled in different shades, and a box to search them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rlscale.data.prompts.messages import tool_names
from rlscale.observe.conversations import LONGEST_TEXT, Conversations, Piece, ShownConversation
from rlscale.observe.formatting import figure, html_text

_APART = ("reward_parts", "turn_rewards")
"""What of a sample's info has a place of its own."""
_LONGEST_FACT = 200
_BETWEEN = "\u241f"
"""Between the texts of tokens, which so take no quotes. The script has it, too."""


def conversation_cards(found: Conversations) -> str:
    """All of them, closed, below the search box; empty where none are stored."""
    problem = f'<p class="note">{html_text(found.problem)}</p>' if found.problem else ""
    if not found.shown:
        return problem
    looked, stored = found.iterations
    told = (
        f"{len(found.shown):,} of {found.samples:,} stored conversations of {looked:,} of {stored:,} iterations: "
        "the worst and the best of a few groups. The folder rollouts has all."
    )
    legend = (
        '<ul class="legend"><li class="made"><i></i>sampled, trained on</li>'
        '<li class="shown"><i></i>shown, masked</li></ul>'
    )
    search = (
        '<label class="search" hidden>Search <input type="search" aria-controls="conversations" autocomplete="off">'
        '<output aria-live="polite"></output></label>'
    )
    cards = "".join(map(_card, found.shown))
    return f'<p class="note">{told}</p>{problem}{legend}{search}<div id="conversations">{cards}</div>'


def _card(one: ShownConversation) -> str:
    sample, prompt = one.sample, one.prompt
    turns = sum(trained for segment in one.segments for trained, _ in _turns(segment))
    versions = sorted({int(version) for version in sample.versions[sample.loss_mask]})
    trained = int(sample.loss_mask.sum())
    where = [
        f"iteration {one.iteration:,}",
        f"prompt {prompt.id}" + (f" of {prompt.source}" if prompt.source else ""),
        f"sample {sample.index}",
        _counted(turns, "turn"),
        f"{trained:,} of {len(sample.tokens):,} tokens trained on",
        _versions(versions),
    ]
    title = html_text(" · ".join(part for part in where if part))
    reward = f'<span class="reward">reward {html_text(figure(sample.reward))}</span>'
    return (
        f'<details class="card conversation"><summary>{reward} {title}</summary>{_facts(one)}{_tools(prompt.tools)}'
        f"{_segments(one)}{_tokens(one.token_view)}</details>"
    )


def _facts(one: ShownConversation) -> str:
    """Parts of the reward, and what else is known of the sample."""
    sample = one.sample
    parts = sample.info.get("reward_parts")
    facts: dict[str, Any] = {}
    if isinstance(parts, Mapping):
        facts |= {f"reward of {name}": value for name, value in parts.items()}
    if one.prompt.label is not None:
        facts["label"] = one.prompt.label
    facts["ended by"] = sample.finish_reason
    facts |= {name: value for name, value in sample.info.items() if name not in _APART}
    rows = "".join(f"<dt>{html_text(name)}</dt><dd>{_fact(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>"


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return html_text(figure(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return html_text(text if len(text) <= _LONGEST_FACT else text[:_LONGEST_FACT] + " …")


def _tools(tools: Sequence[Mapping[str, Any]]) -> str:
    if not tools:
        return ""
    named = ", ".join(tool_names(tools))
    schemas = json.dumps(list(tools), indent=2, ensure_ascii=False)[:LONGEST_TEXT]
    return f"<details><summary>Tools: {html_text(named)}</summary><pre>{html_text(schemas)}</pre></details>"


def _segments(one: ShownConversation) -> str:
    rewards = one.sample.info.get("turn_rewards")
    made, turn = [], 0
    for number, segment in enumerate(one.segments, 1):
        if len(one.segments) > 1:
            made.append(f"<h3>Segment {number}</h3>")
        for trained, pieces in _turns(segment):
            turn += trained
            reward = rewards[turn - 1] if isinstance(rewards, list) and turn <= len(rewards) else None
            made.append(_turn(turn, pieces, reward) if trained else _shown(pieces))
    if one.left_out:
        made.append(f'<p class="note">{_counted(one.left_out, "further token")} are not shown.</p>')
    return "".join(made)


def _tokens(view: Mapping[str, Any]) -> str:
    """Drawn by the script once somebody opens it."""
    if not view:
        return ""
    texts = _BETWEEN.join(text.replace(_BETWEEN, " ") for text in view["texts"])
    runs = {name: _runs(view[name]) for name in ("mask", "versions", "advantages")}
    told = json.dumps({**view, **runs, "texts": texts}, ensure_ascii=False, separators=(",", ":"))
    return f'<details class="tokens" data-tokens="{html_text(told)}"><summary>Token by token</summary></details>'


def _runs(values: Sequence[Any] | None) -> list[list[Any]] | None:
    """[value, how often] of those that follow each other: an advantage is often that of all tokens."""
    return None if values is None else [[value, len(list(alike))] for value, alike in groupby(values)]


def _turns(segment: Sequence[Piece]) -> Iterable[tuple[bool, list[Piece]]]:
    """Whether they were trained on, and pieces that follow each other."""
    return [(trained, list(pieces)) for trained, pieces in groupby(segment, key=lambda piece: piece.trained)]


def _shown(pieces: Sequence[Piece]) -> str:
    tokens = _counted(sum(piece.tokens for piece in pieces), "token")
    text = html_text("".join(piece.text for piece in pieces))
    return f'<div class="said shown"><h4>Shown · {tokens}, masked</h4><pre>{text}</pre></div>'


def _turn(number: int, pieces: Sequence[Piece], reward: Any) -> str:
    """A turn; where its weights changed within it, each span begins with its version."""
    tokens = _counted(sum(piece.tokens for piece in pieces), "token")
    worth = f" · reward {html_text(figure(reward))}" if isinstance(reward, (int, float)) else ""
    several = len(pieces) > 1
    spans = "".join(
        f'<span class="{("even", "odd")[place % 2]}">{_mark(piece) if several else ""}{html_text(piece.text)}</span>'
        for place, piece in enumerate(pieces)
    )
    versions = _versions(sorted({piece.version for piece in pieces}))
    return f'<div class="said made"><h4>Turn {number} · {tokens} · {versions}{worth}</h4><pre>{spans}</pre></div>'


def _mark(piece: Piece) -> str:
    """Apart from the text, as the policy could write `v3` itself."""
    return f'<b title="{_counted(piece.tokens, "token")}">v{piece.version}</b>'


def _versions(versions: Sequence[int]) -> str:
    if not versions:
        return ""
    first, last = versions[0], versions[-1]
    return f"weights v{first}" if first == last else f"weights v{first} to v{last}"


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
