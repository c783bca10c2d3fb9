"""How a response is sampled."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.rollout_config import RolloutConfig

MOST_WORDS = 1024
"""Words that top-p or min-p may leave where the answer has to name them, which SGLang wants a bound for."""


@dataclass(frozen=True)
class SamplingParams:
    """By SGLang's names. `max_new_tokens` counts the end token.

    Unless `ignore_eos` generation also stops at the ends that the model's config, generation config and tokenizer name.
    `names_support`: the answer names the words that each token was drawn from, and log-probs are those among them.
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

    @staticmethod
    def of(config: RolloutConfig | EvalConfig, length: int, end: int) -> SamplingParams:
        """Those of a configuration: up to `length` tokens, of which `end` ends a response.

        For training, samples of a truncated distribution name what was left of it.
        """
        return SamplingParams(
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
        )

    def of_length(self, longest: int) -> SamplingParams:
        """The same, for at most so many tokens."""
        return self if longest == self.max_new_tokens else replace(self, max_new_tokens=longest)

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


_FIELDS = tuple(one for one in fields(SamplingParams) if one.name != "names_support")


def truncates(config: RolloutConfig | EvalConfig) -> bool:
    """Whether some words are left out of what tokens are drawn from."""
    return config.top_p < 1 or config.top_k != -1 or config.min_p > 0
