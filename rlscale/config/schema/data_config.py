"""Where prompts come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

from omegaconf import MISSING

from rlscale.config.schema.about import Limit, bounded, path_key
from rlscale.config.schema.limits import COUNT, SEED, TEMPERATURE, TOKENS
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.section import Section


@dataclass
class DataConfig(Section, group="data"):
    """What every prompt source has; each `data=` option adds its own fields."""

    shuffle: bool = True
    """Read the prompts in an order drawn from `data.seed` anew in each epoch."""
    seed: int = bounded(0, at_least=0, limit=SEED)
    """Seed of the order, and of the problems of a generated source. Follows `run.seed`; in `eval.data` it is 0, so that
    runs of different seeds are measured on the same problems."""
    first: int | None = bounded(None, at_least=1, limit=COUNT)
    """Train on so many prompts alone, the first in that order, again and again: to see that a run can learn at all.
    null: on all."""
    apply_chat_template: bool = True
    """Turn the prompt into a chat message and apply the tokenizer's template."""
    system_prompt: str | None = None
    """System message put before the prompt; needs the chat template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as `enable_thinking: false`; only those that the template reads."""
    max_bad_rate: float | None = bounded(None, at_least=0, at_most=1)
    """Share of bad rows that is left out and counted instead of refused. null: none of what is checked before the run,
    and 1 % of what cannot be checked by then (a very large file, a source of your own)."""


class Operation(Enum):
    """What is done with two numbers."""

    add = "add"
    multiply = "multiply"


@dataclass
class ArithmeticData(DataConfig, option="arithmetic"):
    """Sums or products of two numbers, made by a seeded generator; training and held-out problems never meet."""

    split: str = "train"
    """`train` or `held_out`: which problems this source draws from."""
    operation: Operation = Operation.add
    """add: 47+38=, multiply: 47*38=."""
    max_number: int = bounded(100, at_least=2, limit=Limit(3000, "all pairs of numbers are listed in memory"))
    """Numbers are drawn from 0 to this, exclusive."""
    held_out_share: float = bounded(0.1, above=0, below=1)
    """Share of all problems that belongs to `held_out`."""
    split_seed: int = bounded(0, at_least=0, limit=SEED)
    """Seed of the division into train and held out; must be the same in every stage and in the evaluation."""
    reverse_answer: bool = True
    """Ask for the answer's last digit first, which a small model learns several times faster."""
    size: int | None = bounded(None, at_least=1, limit=Limit(9e6, "there are no more pairs of numbers"))
    """Problems of one epoch; null means all of the split."""


@dataclass
class FileData(DataConfig, option="jsonl", schema="file_schema"):
    """Prompts from JSONL or Parquet files."""

    path: Annotated[Any, "a path, or a list of paths"] = path_key(MISSING)
    """File ending in .jsonl or .parquet, or a list of such files; `path@10:20` takes a slice of a file's rows."""
    prompt_key: str = "prompt"
    """Key of the prompt: a string, or a list of chat messages. `a.b` is the key b of the object at a."""
    label_key: str | None = "label"
    """Key of the label that the reward compares with (for algo=sft: of the answer; null takes the last message of the
    prompt); null for none. `reward_model.truth` is the key truth of the object at reward_model."""
    tools_key: str | None = "tools"
    """Key of the tools that the chat template tells the model of: a list of JSON schemas, or that list as JSON text;
    rows need not have any. null: none are read."""


@dataclass
class CustomData(DataConfig, option="custom"):
    """Prompts from your own class."""

    source: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.data.prompts.sources.PromptSource and its arguments."""


@dataclass
class SourceConfig(Section):
    """One source of a mixture, and what is different for its prompts."""

    data: DataConfig = MISSING
    """Its prompts (`data@data.sources.NAME.data=...` chooses where from)."""
    weight: float = bounded(1.0, above=0, limit=Limit(1e6, "weights are relative to each other", least=1e-6))
    """Share of the prompts that come from it, relative to the weights of the others."""
    reward: RewardConfig | None = None
    """Its own reward (`reward@data.sources.NAME.reward=...`); null takes the run's."""
    max_response_tokens: int | None = bounded(None, at_least=1, limit=TOKENS)
    """Longest response to its prompts, at most `rollout.max_response_tokens`, which null takes."""
    temperature: float | None = bounded(None, above=0, limit=TEMPERATURE)
    """Sampling temperature of its responses; null takes `rollout.temperature`."""
    top_p: float | None = bounded(None, above=0, at_most=1)
    """Nucleus sampling of its responses; null takes `rollout.top_p`."""
    top_k: int | None = bounded(None, at_least=1, off=-1)
    """From how many of the most likely tokens its responses are sampled, -1: from all; null takes `rollout.top_k`."""
    min_p: float | None = bounded(None, at_least=0, below=1)
    """Share of the most likely word below which words are left out, 0: none; null takes `rollout.min_p`."""
    stop: list[str] | None = None
    """Texts that end its responses besides the end of turn; null takes `rollout.stop`."""
    stop_token_ids: list[int] | None = None
    """Tokens that end its responses besides the end of turn; null takes `rollout.stop_token_ids`."""
    ignore_eos: bool | None = None
    """Whether its responses are always the longest; null takes `rollout.ignore_eos`."""


@dataclass
class MixtureData(DataConfig, option="mixture"):
    """Prompts from several sources, whose shares are kept in every stretch of the data."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """The sources by name; the name is in metrics and stored rollouts."""
