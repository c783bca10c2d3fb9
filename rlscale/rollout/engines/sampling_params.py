"""How a response is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from rlscale.config.derived.source_sampling import MOST_WORDS, sampled_apart
from rlscale.config.schema.data_config import DataConfig
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.rollout_config import RolloutConfig


@dataclass(frozen=True)
class SamplingParams:
    """By SGLang's names. `max_new_tokens` counts the end token.

    Unless `ignore_eos` generation also stops at the ends that the model's config, generation config and tokenizer name.
    `names_support`: the answer names the words that each token was drawn from, and log-probs are those among them.
    `names_all`: no word was left out, and samples say so, because others of their batch name the words that were left.
    `relative_temperature`: the temperature over the run's, which samples say where others of their batch have another.
    `words`: the answer lists so many of the likeliest words, with their log-probs, where each token was drawn.
    `own` has the parameters of the sources of a mixture that are sampled otherwise, by name.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    names_support: bool = False
    names_all: bool = False
    relative_temperature: float | None = None
    words: int = 0
    own: Mapping[str, SamplingParams] = field(default_factory=dict, hash=False, repr=False)

    @staticmethod
    def of(
        config: RolloutConfig | EvalConfig,
        length: int,
        end: int,
        sources: Mapping[str, RolloutConfig] | None = None,
        words: int = 0,
        ends: Mapping[str, int] | None = None,
    ) -> SamplingParams:
        """Those of a configuration: up to `length` tokens, of which `end` ends a response.

        For training, samples of a truncated distribution name what was left of it. `sources`: see `sampled_apart`;
        `ends` are the end tokens of sources; `words` are asked for at each token.
        """
        sources, ends = sources or {}, ends or {}
        apart = dict.fromkeys([*sources, *(name for name, own_end in ends.items() if own_end != end)])
        own = {
            name: SamplingParams.of(sources.get(name, config), length, ends.get(name, end), words=words)
            for name in apart
        }
        made = SamplingParams(
            max_new_tokens=length,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            stop=tuple(config.stop),
            stop_token_ids=(*config.stop_token_ids, *(() if config.ignore_eos else (end,))),
            min_new_tokens=config.min_response_tokens,
            ignore_eos=config.ignore_eos,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            repetition_penalty=config.repetition_penalty,
            names_support=isinstance(config, RolloutConfig) and truncates(config),
            words=words,
        )
        if any(one.names_support for one in (made, *own.values())):
            own = {name: replace(one, names_all=not one.names_support) for name, one in own.items()}
            made = replace(made, names_all=not made.names_support)
        if any(one.temperature != made.temperature for one in own.values()):
            relative = {name: one.temperature / made.temperature for name, one in own.items()}
            own = {name: replace(one, relative_temperature=relative[name]) for name, one in own.items()}
            made = replace(made, relative_temperature=1.0)
        return replace(made, own=own)

    def of_source(self, name: str) -> SamplingParams:
        """Those of the source of that name."""
        return self.own.get(name, self)

    def of_length(self, longest: int) -> SamplingParams:
        """The same, for at most so many tokens."""
        if longest == self.max_new_tokens:
            return self
        # One for each response that goes on: `replace` would look at every field, and the body be worked out anew.
        unseeded = {**self._unseeded, "max_new_tokens": longest}
        other = object.__new__(SamplingParams)
        other.__dict__.update(self.__dict__, max_new_tokens=longest, _unseeded=unseeded)
        return other

    def body(self, seed: int) -> dict[str, Any]:
        """The field `sampling_params` of a request: what differs from SGLang's own values, and the seed."""
        return {**self._unseeded, "sampling_seed": seed}

    @cached_property
    def _unseeded(self) -> dict[str, Any]:
        given = {one.name: getattr(self, one.name) for one in _FIELDS}
        if self.names_support and self.top_k == -1:
            given["top_k"] = MOST_WORDS
        always = ("max_new_tokens", "temperature")
        changed = {one.name: given[one.name] for one in _FIELDS if given[one.name] != one.default}
        return {**{name: given[name] for name in always}, **changed}


_OURS = ("names_support", "names_all", "relative_temperature", "words", "own")
_FIELDS = tuple(one for one in fields(SamplingParams) if one.name not in _OURS)


def truncates(config: RolloutConfig | EvalConfig) -> bool:
    """Whether some words are left out of what tokens are drawn from."""
    return config.top_p < 1 or config.top_k != -1 or config.min_p > 0


def names_words(rollout: RolloutConfig, data: DataConfig) -> bool:
    """Whether some samples are trained on the words that were left for them."""
    return truncates(rollout) or any(map(truncates, sampled_apart(rollout, data).values()))
