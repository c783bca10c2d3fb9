"""Which token ends a response: what the chat template writes after an assistant's turn, or the tokenizer's eos."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.tokens.template_limits import TemplateUnbounded, rendered
from rlscale.families import FolderError
from rlscale.families.config_file import CONFIG, end_ids, read_generation, read_json

_ASKED, _ANSWERED = "RLSCALE ASKS", "RLSCALE ANSWERS"
"""Contents of the conversation that is rendered; no template writes them by itself."""

_WAY_OUT = (
    "give the tokenizer an eos_token, or a template that ends an assistant's turn with one as model.chat_template"
)


@dataclass(frozen=True)
class EndOfTurn:
    """The token that ends a response: learned by supervised training, and where engines stop."""

    token: int
    """Its id."""
    text: str
    """How the tokenizer writes it."""
    before: str
    """What the template writes between a response and the token: nothing, as a rule."""
    origin: str
    """Where it was found, for people."""

    def __str__(self) -> str:
        between = f" after {self.before!r}" if self.before else ""
        return f"end of turn: {self.text!r} (token {self.token}){between}, {self.origin}"


def find_end_of_turn(
    tokenizer: Any,
    templated: bool,
    key: str = "data",
    variables: Mapping[str, Any] | None = None,
    stops: Collection[int] = (),
) -> EndOfTurn:
    """The end of turn of a transformers tokenizer with the chat template of the run.

    `templated`: whether prompts go through the template (`<key>.apply_chat_template`); `variables` are those that the
    template is given; `stops` are the ids at which the model itself stops (its generation_config): GLM's template ends
    no turn, and the model stops where it opens the user's next one. UserError where nothing ends a turn, or several
    tokens together do.
    """
    if not templated:
        return _eos(tokenizer, f"the tokenizer's eos_token ({key}.apply_chat_template=false)")
    turns = _render(tokenizer, variables or {})
    if turns is None:
        return _eos(tokenizer, "the tokenizer's eos_token: the chat template does not render an assistant's turn")
    for tail in (turns.after, turns.last):
        token = _first_added_token(tokenizer, tail, but_not=turns.begin)
        if token is not None:
            return _end_of_turn(tokenizer, token, tail)
    opener = _first_added_token(tokenizer, turns.following, but_not="")
    if opener is not None and tokenizer.convert_tokens_to_ids(opener) in stops:
        return EndOfTurn(
            tokenizer.convert_tokens_to_ids(opener),
            opener,
            turns.following[: turns.following.find(opener)],
            "which opens the next turn, and at which the model's generation_config stops",
        )
    text = turns.after.strip()
    if not text or turns.begin.startswith(text):  # the header of the next turn
        return _eos(tokenizer, "the tokenizer's eos_token: the chat template writes no end of an assistant's turn")
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        raise UserError(
            f"the chat template ends an assistant's turn with {text!r}, which is {len(tokens)} tokens, while "
            f"generation stops at a single one; add it to the tokenizer as a special token, or {_WAY_OUT}"
        )
    return _end_of_turn(tokenizer, text, turns.after)


def stops_of(folder: Path | str) -> list[int]:
    """The ids at which the generation_config.json beside a tokenizer stops; none without one. UserError for rubbish."""
    try:
        return end_ids(read_generation(Path(folder)))
    except FolderError as error:
        raise UserError(f"{folder}: {error}") from error


def may_end_a_response(tokenizer: Any, folder: Path | str) -> frozenset[int]:
    """Tokens at which an engine may end a response without being asked: all that its tokenizer calls special, and the
    ends that config.json and generation_config.json beside it name. UserError for rubbish there."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    config = Path(folder) / CONFIG
    try:
        named = end_ids(read_json(config)) if config.is_file() else []
    except FolderError as error:
        raise UserError(f"{folder}: {error}") from error
    return frozenset(special | {*tokenizer.all_special_ids, *named, *stops_of(folder)})


def appended_tokens(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts behind any text of its own accord, such as an eos that ends a prompt."""
    special = set(tokenizer.all_special_ids)
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number])
        bare = tokenizer(text, add_special_tokens=False).input_ids
        if not bare or special & set(bare):
            continue  # not a text that the tokenizer reads as ordinary tokens
        whole = tokenizer(text, add_special_tokens=True).input_ids
        starts = [start for start in range(len(whole)) if whole[start : start + len(bare)] == bare]
        return len(whole) - starts[0] - len(bare) if starts else 0
    return 0


def _eos(tokenizer: Any, origin: str) -> EndOfTurn:
    if tokenizer.eos_token_id is None:
        reason = origin.partition("eos_token")[2].strip(" :()")
        raise UserError(f"nothing ends a response: {reason}, and the tokenizer has no eos_token; {_WAY_OUT}")
    return EndOfTurn(tokenizer.eos_token_id, tokenizer.eos_token, "", origin)


def _end_of_turn(tokenizer: Any, text: str, tail: str) -> EndOfTurn:
    (token,) = tokenizer(text, add_special_tokens=False).input_ids
    return EndOfTurn(token, text, tail[: tail.find(text)], "written by the chat template")


@dataclass(frozen=True)
class _Turns:
    begin: str
    """What a conversation begins with, before any content."""
    after: str
    """What follows an assistant's turn whether or not another turn follows."""
    last: str
    """What follows an assistant's turn that is the last."""
    following: str
    """What follows an assistant's turn where the user goes on; nothing where the template refuses that."""


def _render(tokenizer: Any, variables: Mapping[str, Any]) -> _Turns | None:
    """What the template writes around turns; None if it does not take an assistant's."""
    user, assistant = ({"role": role, "content": text} for role, text in (("user", _ASKED), ("assistant", _ANSWERED)))
    alone = _text(tokenizer, [user, assistant], variables)
    if alone is None or _ANSWERED not in alone or _ASKED not in alone:
        return None
    last = alone.rpartition(_ANSWERED)[2]
    followed = _text(tokenizer, [user, assistant, user], variables) or alone
    following = followed.rpartition(_ANSWERED)[2]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(last, following, strict=False))
    after = "".join(first for first, _ in same)
    # With a system prompt of ours there is none of the template's own, which would be content before the first.
    instructed = _text(tokenizer, [{"role": "system", "content": _ASKED}, user, assistant], variables) or alone
    return _Turns(instructed.partition(_ASKED)[0], after, last, following.partition(_ASKED)[0])


def _text(tokenizer: Any, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str | None:
    try:
        return rendered(tokenizer, messages, add_generation_prompt=False, **dict(variables))
    except TemplateUnbounded:
        raise
    except Exception:  # a template may raise anything
        return None


def _first_added_token(tokenizer: Any, tail: str, but_not: str) -> str | None:
    """The first special or added token of a text, the longest of those that start there; none of `but_not`."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    places = [(tail.find(token), -len(token), token) for token in added if token in tail and token not in but_not]
    return min(places)[2] if places else None
