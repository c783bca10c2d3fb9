"""What of a run's stored rollouts the report shows: a few conversations, cut into pieces of tokens of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt, Sample
from rlscale.data.stored.stored_rollouts import FOLDER, StoredRollouts
from rlscale.data.stored.trained_tokens import TrainedTokens
from rlscale.data.tokens.token_decoder import Decode, token_decoder
from rlscale.observe.token_view import token_view

MOST_ITERATIONS = 6
"""Stored iterations that are looked at, at even distances; the first and the last are among them."""
MOST_GROUPS = 4
"""Groups of each of them; of a group its worst and its best sample."""
MOST_TOKENS = 6000
"""Tokens of a conversation that are decoded."""
HEAD, TAIL = 1000, 500
"""Tokens of a long masked piece that are decoded, so that a prompt of any length leaves room for the answers."""
MOST_PIECES = 200
"""Pieces of a conversation."""
VIEWED, VIEWED_BEFORE = 400, 20
"""Tokens of a conversation that are told one by one, and how many of them stand before the first that was sampled."""
LONGEST_TEXT = 8000
"""Characters of a piece."""
_CONTEXT = 8
"""Tokens before a piece that it is decoded with: some tokenizers write the first token of a text otherwise."""
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Piece:
    """Tokens that follow each other, are all trained on or all masked, and have one weight version."""

    text: str
    tokens: int
    trained: bool
    version: int
    """Of the weights that generated them; -1 where none did."""


@dataclass(frozen=True)
class ShownConversation:
    """One sample, from its prompt on."""

    iteration: int
    prompt: Prompt
    sample: Sample
    segments: list[list[Piece]]
    """Of each training sequence its pieces."""
    left_out: int = 0
    """Tokens at its end that are in no piece."""
    token_view: Mapping[str, Any] = field(default_factory=dict)
    """Of some of its tokens what `token_view` tells, and as `first` the place of the first of them."""


@dataclass
class Conversations:
    """Those that are shown, and what there is besides."""

    shown: list[ShownConversation] = field(default_factory=list)
    samples: int = 0
    """Samples of the iterations that were looked at."""
    iterations: tuple[int, int] = (0, 0)
    """Iterations that were looked at, and that are stored."""
    problem: str = ""
    """Why some are missing, or have no tokens told apart."""


def read_conversations(folder: Path) -> Conversations:
    """A bounded choice of the conversations that a run has stored in its folder, however large its files are."""
    found = Conversations()
    if not (folder / FOLDER).is_dir():
        return found
    try:
        stored = StoredRollouts(folder, "run.output")
        chosen = even(stored.iterations, MOST_ITERATIONS)
        found.iterations = len(chosen), len(stored.iterations)
        decode = _decoder(str(stored.facts(chosen[0]).get("tokenizer", "")), found)
        for iteration in chosen:
            outline = stored.outline(iteration)
            found.samples += len(outline)
            rows = sorted(set(_worst_and_best(outline)))  # as they are read
            read = dict(zip(rows, stored.samples(iteration, rows, logprobs=True), strict=True))
            trained = stored.trained(iteration, {row: sample for row, (_, sample) in read.items()})
            for row, (prompt, sample) in read.items():
                viewed = _viewed(sample, trained.get(row), decode)
                found.shown.append(replace(_shown(iteration, prompt, sample, decode), token_view=viewed))
    except UserError as error:
        found.problem = str(error)
    return found


def even(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _worst_and_best(outline: Sequence[tuple[int, float]]) -> list[int]:
    """Rows of the samples with the lowest and the highest reward of a few groups."""
    groups: dict[int, list[int]] = {}
    for row, (prompt, _) in enumerate(outline):
        groups.setdefault(prompt, []).append(row)
    rows = []
    for prompt in even(sorted(groups), MOST_GROUPS):
        ordered = sorted(groups[prompt], key=lambda row: outline[row][1])
        rows += [ordered[0], ordered[-1]]
    return rows


def _decoder(folder: str, found: Conversations) -> Decode | None:
    """What decodes by the tokenizer in the folder; None, and the problem is told, where it cannot be read."""
    try:
        return token_decoder(folder)
    except UserError as error:
        found.problem = f"Tokens are not told apart, as the run's tokenizer cannot be read: {error}"
        return None


def _viewed(sample: Sample, trained: TrainedTokens | None, decode: Decode | None) -> dict[str, Any]:
    """Some tokens around the first that was sampled, one by one."""
    first = max(0, int(sample.loss_mask.argmax()) - VIEWED_BEFORE)
    return {"first": first, **token_view(sample, trained, decode, slice(first, first + VIEWED))}


def _shown(iteration: int, prompt: Prompt, sample: Sample, decode: Decode | None) -> ShownConversation:
    if decode is None:
        asked, made = len(prompt.tokens), len(sample.tokens) - len(prompt.tokens)
        answer = sample.raw_text or sample.text
        pieces = [Piece(_short(prompt.text), asked, False, -1), Piece(_short(answer), made, True, sample.min_version)]
        return ShownConversation(iteration, prompt, sample, [pieces])
    segments, start, tokens, pieces_left = [], 0, MOST_TOKENS, MOST_PIECES
    for segment in sample.segments:
        kept: list[tuple[int, int]] = []
        for first, end in list(_runs(sample, start, start + segment.length))[:pieces_left]:
            if tokens <= 0:
                break
            whole = not sample.loss_mask[first] and end - first > HEAD + TAIL  # abridged, when it is decoded
            kept.append((first, end if whole else min(end, first + tokens)))
            tokens -= HEAD + TAIL if whole else end - first
        if kept:
            segments.append(_decoded(sample, kept, decode))
        pieces_left -= len(kept)
        start += segment.length
    shown = sum(piece.tokens for pieces in segments for piece in pieces)
    return ShownConversation(iteration, prompt, sample, segments, len(sample.tokens) - shown)


def _runs(sample: Sample, start: int, end: int) -> Iterator[tuple[int, int]]:
    """First and end of each run of tokens between `start` and `end` of one kind and one version."""
    mask, versions = sample.loss_mask[start:end], sample.versions[start:end]
    changes = ((mask[1:] != mask[:-1]) | (versions[1:] != versions[:-1])).nonzero()[0].tolist()
    bounds = [start, *(start + 1 + change for change in changes), end]
    return pairwise(bounds)


def _decoded(sample: Sample, runs: Sequence[tuple[int, int]], decode: Decode) -> list[Piece]:
    """The pieces of runs that follow each other. A character whose tokens are in two of them is in the later one."""
    texts: list[str] = []
    for first, end in runs:
        context = sample.tokens[max(runs[0][0], first - _CONTEXT) : first].tolist()
        abridged = not sample.loss_mask[first] and end - first > HEAD + TAIL
        shown = sample.tokens[first : first + HEAD if abridged else end].tolist()
        before, whole = decode(context), decode([*context, *shown])
        if not whole.startswith(before):
            before = before.rstrip(_BROKEN)
            texts[-1] = texts[-1].rstrip(_BROKEN)
        tail = decode(sample.tokens[end - TAIL : end].tolist()) if abridged else ""
        between = f" … {end - first - HEAD - TAIL:,} tokens … " if abridged else ""
        texts.append(_short(whole.removeprefix(before)) + between + _short(tail))
    return [
        Piece(text, end - first, bool(sample.loss_mask[first]), int(sample.versions[first]))
        for text, (first, end) in zip(texts, runs, strict=True)
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
