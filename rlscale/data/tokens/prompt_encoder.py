"""From a raw prompt to tokens: chat template, system prompt, length limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.errors import UserError, first_line
from rlscale.config.schema.data_config import DataConfig
from rlscale.data.prompts.bad_rows import BadPrompt
from rlscale.data.prompts.messages import Message, read_messages, refuse_answered, with_system
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.data.tokens.end_of_turn import appended_tokens, find_end_of_turn, may_end_a_response, stops_of
from rlscale.data.tokens.quick_tokenizer import QuickTokenizer
from rlscale.data.tokens.response_decoder import ResponseDecoder
from rlscale.data.tokens.template_kwargs import check_template_kwargs, variables_of
from rlscale.data.tokens.template_limits import TemplateUnbounded, rendered, try_template
from rlscale.data.tokens.tokenizer_class import known_class

_SAID = "RLSCALE SAID"
"""Stands for an assistant's turn when what follows it is rendered; no template writes it by itself."""


class PromptEncoder:
    """Encodes prompts with the tokenizer in `tokenizer_folder`.

    `chat_template` (Jinja text) replaces the tokenizer's own. `dropped` counts prompts over `max_prompt_tokens`.
    `end_of_turn` is the token that ends a response, `may_end` are those at which engines may end one besides. UserError
    when the chat template is asked for and there is none, when a system prompt could not be placed, or when nothing
    ends a response.
    """

    def __init__(
        self,
        tokenizer_folder: Path | str,
        config: DataConfig,
        max_prompt_tokens: int,
        chat_template: str | None = None,
        key: str = "data",
    ) -> None:
        self.tokenizer = load_tokenizer(tokenizer_folder)
        self._quick = QuickTokenizer(self.tokenizer)
        self.dropped = 0
        self._config = config
        self._max = max_prompt_tokens
        self._key = key
        if chat_template is not None:
            self.tokenizer.chat_template = chat_template
        if config.apply_chat_template and not self.tokenizer.chat_template:
            raise UserError(
                f"the tokenizer in {tokenizer_folder} has no chat template; set {key}.apply_chat_template=false, "
                "or give one as model.chat_template"
            )
        if config.system_prompt is not None and not config.apply_chat_template:
            raise UserError(f"{key}.system_prompt needs the chat template; set {key}.apply_chat_template=true")
        if config.apply_chat_template or config.chat_template_kwargs:
            try_template(self.tokenizer, config.chat_template_kwargs)
        if config.chat_template_kwargs:
            check_template_kwargs(self.tokenizer.chat_template, config.chat_template_kwargs, key)
        self.end_of_turn = find_end_of_turn(
            self.tokenizer,
            config.apply_chat_template,
            key,
            config.chat_template_kwargs,
            stops_of(tokenizer_folder),
        )
        self.may_end = may_end_a_response(self.tokenizer, tokenizer_folder)
        self._decoder = ResponseDecoder(self.tokenizer, self._quick, self.end_of_turn)
        if config.apply_chat_template:
            self._refuse_deaf()
        variables = variables_of(self.tokenizer.chat_template) if config.apply_chat_template else set()
        self._reads_tools = variables is None or "tools" in variables
        self._special = frozenset(self.tokenizer.all_special_ids)
        self._added = set(self.tokenizer.added_tokens_decoder) | set(self.tokenizer.all_special_ids)
        self._appended = 0 if config.apply_chat_template else appended_tokens(self.tokenizer)

    @property
    def ends(self) -> dict[str, int]:
        """The token that ends a response to the prompts of each source of a mixture, by the source's name."""
        return {}

    @property
    def limits(self) -> str:
        """The key to raise when no prompt fits."""
        return "rollout.max_prompt_tokens"

    def encode(self, raw: RawPrompt) -> Prompt | None:
        """The prompt with its tokens, or None (counted) if it is longer than allowed. BadPrompt if it is unusable."""
        try:
            prompt = self._prompt(raw)
        except ValueError as error:
            raise BadPrompt(raw.where(self._key), str(error)) from error
        if len(prompt.tokens) > self._max:
            self.dropped += 1
            return None
        return prompt

    def of(self, prompt: Prompt) -> PromptEncoder:
        """What encodes further messages of the prompt's episode."""
        return self

    def encode_start(
        self, prompt: Prompt, messages: Sequence[Message] | None, tools: Sequence[Mapping[str, Any]]
    ) -> Prompt:
        """The prompt with other messages (None: its own) and further tools. ValueError if unusable or too long."""
        said = list(prompt.messages if messages is None else messages)
        if messages is None and self._config.system_prompt is not None:
            said = said[1:]  # it is put before them again
        all_tools = [*prompt.tools, *map(dict, tools)]
        raw = RawPrompt(prompt.index, prompt.id, said, prompt.label, prompt.info, tools=all_tools, source=prompt.source)
        shown = self._prompt(raw)
        if len(shown.tokens) > self._max:
            raise ValueError(f"is {len(shown.tokens)} tokens long, over rollout.max_prompt_tokens={self._max}")
        return replace(shown, max_response_tokens=prompt.max_response_tokens)

    def encode_conversation(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> np.ndarray:
        """Tokens of a whole conversation as an agent sends it, up to where the policy goes on, int32 [n].

        However long, and without the configuration's system prompt. ValueError saying what is wrong with it.
        """
        if not self._config.apply_chat_template:
            raise ValueError(f"needs the chat template; set {self._key}.apply_chat_template=true")
        text = self._rendered(list(messages), tools)
        return np.array(self._tokens(text, add_special_tokens=False), np.int32)

    def encode_response(self, text: str) -> np.ndarray:
        """Tokens of a response given as text, with its end of turn, int32 [m]. ValueError if it cannot be encoded."""
        end = self.end_of_turn
        tokens = self._tokens(text.removesuffix(end.text) + end.before, add_special_tokens=False)
        return np.array([*tokens, end.token], np.int32)

    def encode_observation(
        self, history: Sequence[Message], new: Sequence[Message], tools: Sequence[dict[str, Any]] = (), last: int = -1
    ) -> np.ndarray:
        """Tokens of the messages that follow a turn of the policy, up to where it goes on, int32 [m].

        `history`: the messages before that turn; `last`: the turn's last token. What was sampled is not rendered again:
        the turn's end is among these tokens only where the policy did not write it. Without the chat template they are
        the text of the messages. ValueError saying what is wrong with the messages.
        """
        new = read_messages(list(new))
        if not self._config.apply_chat_template:
            return np.array(self._tokens("".join(m["content"] for m in new), add_special_tokens=False), np.int32)
        text = self._rendered([*history, {"role": "assistant", "content": _SAID}, *new], tools)
        said, _, after = text.rpartition(_SAID)
        if not said:
            raise ValueError("cannot follow a turn: the chat template leaves out what the assistant says")
        end = self.end_of_turn
        if last == end.token:
            after = after.removeprefix(end.before + end.text)
        tokens = self._tokens(after, add_special_tokens=False)
        # A turn may also end at what opens the next one: GLM's models write <|user|> or <|observation|> themselves.
        if tokens[:1] == [last] and last in self._added:
            tokens = tokens[1:]
        return np.array(tokens, np.int32)

    def encode_continuation(
        self, tokens: np.ndarray, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> tuple[np.ndarray, bool]:
        """What of a conversation, as the chat template writes it up to where the policy goes on, follows `tokens`.

        int32 [m], and False; or all of its tokens, and True, where the template writes what the tokens (int [n]) stand
        for otherwise. `tokens` may be other tokens of the same text: they were sampled, and stay.
        ValueError saying what is wrong with the messages.
        """
        if not self._config.apply_chat_template:
            raise ValueError("has a history that a chat template would write, and there is none")
        text = self._rendered(read_messages(list(messages)), tools)
        before = self._quick.decode(tokens.tolist(), False)
        begins = not text.startswith(before)
        rest = text if begins else text.removeprefix(before)
        return np.array(self._tokens(rest, add_special_tokens=False), np.int32), begins

    def ends_turn(self, token: int) -> bool:
        """Whether what an answer stopped at is no part of its text: its end of turn, or the next role's opener."""
        return token == self.end_of_turn.token or token in self._special

    def decode(self, tokens: np.ndarray) -> tuple[str, str]:
        """Text of response tokens (int [m]): without special tokens and end of turn, and with. Not tidied up."""
        return self._decoder(tokens)

    def _prompt(self, raw: RawPrompt) -> Prompt:
        """The prompt with its tokens, however long. ValueError if it is unusable."""
        messages = self._messages(raw)
        text = self._text(raw, messages)
        # The template writes the special tokens itself; without it the tokenizer adds what it wants at the start.
        tokens = self._tokens(text, add_special_tokens=not self._config.apply_chat_template)
        tokens = tokens[: len(tokens) - self._appended]  # a prompt does not end in what is put behind any text
        if not tokens:
            raise ValueError("has no tokens")
        ids = np.array(tokens, np.int32)
        return Prompt(raw.index, raw.id, ids, raw.label, raw.info, text, messages, raw.tools, raw.source)

    def _messages(self, raw: RawPrompt) -> list[dict[str, Any]]:
        """What the prompt's text is made of, the system prompt included. ValueError if no answer could follow it."""
        if isinstance(raw.prompt, str):
            if self._config.apply_chat_template and not raw.prompt.strip():
                raise ValueError("is empty")
            messages = [{"role": "user", "content": raw.prompt}]
        else:
            messages = read_messages(raw.prompt)
        refuse_answered(messages)
        return with_system(messages, self._config.system_prompt)

    def _text(self, raw: RawPrompt, messages: list[dict[str, Any]]) -> str:
        """What the model is given as text. ValueError saying what is wrong with the prompt."""
        if not self._config.apply_chat_template:
            if not isinstance(raw.prompt, str) or raw.tools:
                what = "has tools, which need" if raw.tools else "is a list of messages, which needs"
                raise ValueError(f"{what} the chat template; set {self._key}.apply_chat_template=true")
            return raw.prompt
        return self._rendered(messages, raw.tools)

    def _rendered(self, messages: list[Message], tools: Sequence[dict[str, Any]]) -> str:
        """The messages by the chat template, up to where the policy goes on. ValueError if it refuses them."""
        if tools and not self._reads_tools:
            raise ValueError(
                "has tools, which the chat template does not render; give another as model.chat_template, "
                f"or read no tools with {self._key}.tools_key=null"
            )
        variables = {**self._config.chat_template_kwargs, **({"tools": list(tools)} if tools else {})}
        try:
            return rendered(self.tokenizer, messages, add_generation_prompt=True, **variables)
        except TemplateUnbounded:
            raise
        except Exception as error:  # the template may raise anything
            raise ValueError(f"is refused by the chat template: {_first_line(error)}") from error

    def _refuse_deaf(self) -> None:
        """UserError for a template that writes the same whatever the user says."""
        said = []
        for content in ("1 + 1", "2 + 2"):
            try:
                messages = with_system([{"role": "user", "content": content}], self._config.system_prompt)
                said.append(self._text(RawPrompt(0, "", content), messages))
            except ValueError:  # it may want other messages than these: the prompts will tell
                return
        if said[0] == said[1]:
            raise UserError(
                f"{self._key}: the chat template leaves out what the user says: it writes {said[0][:80]!r} for every "
                "prompt; give another as model.chat_template"
            )

    def _tokens(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The text's tokens. ValueError where the tokenizer refuses it or lacks some of its characters."""
        try:
            tokens = self._quick.encode(text, add_special_tokens)
        except Exception as error:  # a lone surrogate is a TypeError, for one
            raise ValueError(f"is refused by the tokenizer: {text[:80]!a} ({_first_line(error)})") from error
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in tokens and self.tokenizer.unk_token not in text:
            lacks = [one for one in dict.fromkeys(text) if unknown in self._quick.encode(one, False)]
            named = f" (it lacks {', '.join(map(repr, lacks[:5]))})" if lacks else ""
            raise ValueError(f"contains characters that the tokenizer does not have: {text[:80]!r}{named}")
        return tokens


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def load_tokenizer(folder: Path | str) -> Any:
    """The transformers tokenizer in a local folder. UserError if it cannot be read."""
    import transformers

    try:
        kind = getattr(transformers, known_class(Path(folder)) or "AutoTokenizer")
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{folder}: its tokenizer cannot be read ({first_line(error)[:200]})") from error
