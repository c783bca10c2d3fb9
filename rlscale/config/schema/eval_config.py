"""How the policy is measured on data that it is not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rlscale.config.schema.about import Scope, bounded, key
from rlscale.config.schema.data_config import DataConfig
from rlscale.config.schema.limits import COUNT, DEVICES, IN_EVALUATION, TEMPERATURE, TOKENS
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.section import Section


@dataclass
class EvalSetConfig(Section):
    """One of several evaluation sets. What is null is as in `eval`."""

    data: DataConfig = MISSING
    """Its prompts (`data@eval.sets.NAME.data=...` chooses a source)."""
    reward: RewardConfig | None = None
    """Its own reward (`reward@eval.sets.NAME.reward=...`); null takes that of the source of the same name in
    `data.sources`, or else the run's."""
    every: int | None = bounded(None, at_least=0, limit=COUNT)
    """Iterations between its evaluations during training; 0 evaluates it only before and after."""
    prompts: int | None = bounded(None, at_least=1, limit=IN_EVALUATION)
    """Prompts taken from the source."""
    samples_per_prompt: int | None = bounded(None, at_least=1, limit=IN_EVALUATION)
    """Samples generated for each prompt."""
    pass_k: list[int] | None = None
    """The k of pass@k to report."""
    temperature: float | None = bounded(None, at_least=0, limit=TEMPERATURE)
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = bounded(None, above=0, at_most=1)
    """Nucleus sampling; 1 switches it off."""
    top_k: int | None = bounded(None, at_least=1, off=-1)
    """Sampling from the k most likely tokens; -1 switches it off."""
    min_p: float | None = bounded(None, at_least=0, below=1)
    """Leaves out words less likely than this share of the most likely one; 0 switches it off. For engines on GPUs."""
    stop: list[str] | None = None
    """Texts that end a response besides the end of turn; they stay in it."""
    stop_token_ids: list[int] | None = None
    """Tokens that end a response besides the end of turn; they stay in it."""
    min_response_tokens: int | None = bounded(None, at_least=0, limit=TOKENS)
    """Tokens before which nothing ends a response."""
    ignore_eos: bool | None = None
    """Generate the longest response always, past the end of turn and the model's own ends."""
    presence_penalty: float | None = bounded(None, at_least=-2, at_most=2)
    """Subtracted from the logits of words that the response has."""
    frequency_penalty: float | None = bounded(None, at_least=-2, at_most=2)
    """Subtracted from the logits of a word each time that the response has it."""
    repetition_penalty: float | None = bounded(None, above=0, at_most=2)
    """Divides the logits of words that prompt and response have; 1 switches it off."""
    max_response_tokens: int | None = bounded(None, at_least=1, limit=TOKENS)
    """Longest response in tokens."""
    success_reward: float | None = bounded(None)
    """A sample counts as solved when its reward is at least this."""


@dataclass
class EvalConfig(Section):
    """Evaluation before, during and after training, with its own data and sampling parameters."""

    enabled: bool = True
    """Evaluate at all."""
    every: int = bounded(0, at_least=0, limit=COUNT)
    """Iterations between evaluations during training; 0 evaluates only before and after."""
    data: DataConfig | None = None
    """Prompts of the evaluation (`data@eval.data=...` chooses a source)."""
    sets: dict[str, EvalSetConfig] = field(default_factory=dict)
    """Further evaluation sets by name, measured like `eval.data` but for what each says of itself. Without `eval.data`
    the first of them is the one that summary and progress show."""
    prompts: int | None = bounded(256, at_least=1, limit=IN_EVALUATION)
    """Prompts taken from the source; null takes all."""
    samples_per_prompt: int = bounded(1, at_least=1, limit=IN_EVALUATION)
    """Samples generated for each prompt."""
    pass_k: list[int] = field(default_factory=lambda: [1])
    """The k of pass@k to report; none above `eval.samples_per_prompt`."""
    temperature: float = bounded(1.0, at_least=0, limit=TEMPERATURE)
    """Sampling temperature; 0 is greedy."""
    top_p: float = bounded(1.0, above=0, at_most=1)
    """Nucleus sampling; 1 switches it off."""
    top_k: int = bounded(-1, at_least=1, off=-1)
    """Sampling from the k most likely tokens; -1 switches it off."""
    min_p: float = bounded(0.0, at_least=0, below=1)
    """Leaves out words less likely than this share of the most likely one; 0 switches it off. For engines on GPUs."""
    stop: list[str] = key(list)
    """Texts that end a response besides the end of turn; they stay in it."""
    stop_token_ids: list[int] = key(list)
    """Tokens that end a response besides the end of turn; they stay in it."""
    min_response_tokens: int = bounded(0, at_least=0, limit=TOKENS)
    """Tokens before which nothing ends a response."""
    ignore_eos: bool = key(False)
    """Generate the longest response always, past the end of turn and the model's own ends."""
    presence_penalty: float = bounded(0.0, at_least=-2, at_most=2)
    """Subtracted from the logits of words that the response has."""
    frequency_penalty: float = bounded(0.0, at_least=-2, at_most=2)
    """Subtracted from the logits of a word each time that the response has it."""
    repetition_penalty: float = bounded(1.0, above=0, at_most=2)
    """Divides the logits of words that prompt and response have; 1 switches it off."""
    max_response_tokens: int | None = bounded(None, at_least=1, limit=TOKENS)
    """Longest response in tokens; null means `rollout.max_response_tokens`."""
    engines: int = bounded(0, at_least=0, limit=DEVICES, scope=Scope.execution)
    """Engines that do nothing but evaluate, each like one of the rollout's: they hold the weights that are measured
    until that is done, and training goes on meanwhile. With 0 the rollout's engines evaluate, and training waits."""
    allow_overlap: bool = False
    """Allow an evaluation of nothing but what is trained on, which says nothing about new prompts."""
    success_reward: float = bounded(1.0)
    """A sample counts as solved when its reward is at least this."""
