"""What an environment is: it shows messages to the policy, and answers each of its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlscale.data.prompts.messages import Message
from rlscale.data.sample import Prompt, Sample
from rlscale.envs.score import info_of


@dataclass(frozen=True)
class Call:
    """A call of a tool by the policy."""

    name: str
    """One of the tools that it was told of."""
    arguments: Mapping[str, Any]
    """By name; any JSON, which nothing has held against the tool's schema."""


@dataclass(frozen=True)
class Action:
    """What the policy did in one turn. The framework keeps the tokens that it trains on; these are for judging.

    Thinking and calls are told from the text by the engine's own parsers, where `rollout.reasoning_parser` and
    `rollout.tool_parser` name them; without them they are part of the text.
    """

    text: str
    """The response without special tokens, without its thinking and its calls where these were read."""
    raw_text: str
    """The response with its special tokens, the one that ends it included."""
    tokens: Sequence[int]
    """The ids of the response's tokens."""
    finish: str = "stop"
    """Why the turn ended: "stop" at an end token, "length" where it was cut at the limit."""
    thinking: str = ""
    """What the policy thought before it answered."""
    calls: Sequence[Call] = ()
    """The tools that it calls, in their order: all that the turn names, or none."""
    unread_call: bool = False
    """Whether it calls in a way that cannot be read, a call that is not finished or of a tool that there is not; then
    `text` has what it wrote."""

    @staticmethod
    def of(sample: Sample) -> Action:
        """All that came after the prompt as one action: of several turns, with what the policy was shown between."""
        tokens = sample.tokens[sample.prompt_length :].tolist()
        return Action(sample.text, sample.raw_text, tokens, sample.finish_reason)


@dataclass(frozen=True)
class Start:
    """How an episode begins."""

    messages: Sequence[Message] | None = None
    """What the policy is shown in place of the prompt's own messages; None keeps those. A system prompt of the
    configuration goes before them."""
    tools: Sequence[Mapping[str, Any]] = ()
    """JSON schemas of the tools that the chat template tells the policy of, besides those of the prompt."""
    max_turns: int | None = None
    """Turns after which the episode counts as cut off; None leaves it to the budget of tokens."""


@dataclass(frozen=True)
class Step:
    """What a turn of the policy led to."""

    messages: Sequence[Message] = ()
    """What the policy is shown next, appended behind its turn and never trained on. Not read once it is `done`."""
    reward: float = 0.0
    """The reward of this turn; a sample's reward is the sum over its turns."""
    done: bool = False
    """Whether the episode is over."""
    restart: bool = False
    """Whether `messages` replace all that the policy was shown before, as a summary does, instead of being appended. A
    new segment begins, which is trained on as a sequence of its own with the same reward."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the sample carries along, by name; a later turn replaces an earlier one's. Plain values."""
    columns: Mapping[str, float] = field(default_factory=dict)
    """Columns of the batch that the sample brings, a number for each by the name of its field
    (rlscale.data.batches.fields), of the scope `sample`; a later turn replaces an earlier one's."""


class Environment(Protocol):
    """One episode's world. A class by `env._target_`; every sample gets an instance of its own.

    The constructor gets the arguments beside `_target_`. If it has a parameter named `reward` that `env` does not set,
    that is the configured reward as a `Scorer`. The methods of many samples share the event loop of the rollout, so
    long computations belong in `asyncio.to_thread` or in another process. Each call has `rollout.step_timeout_s`
    seconds. Raising or taking longer is a failure of the environment: the sample is dropped, counted and made anew. A
    wrong response is not a failure; give it its reward.
    """

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """Begin an episode from a row of the data (`prompt.label`, `prompt.info`, `prompt.messages`).

        Chance is drawn from `seed`, which every sample has for itself; what all samples of a group must share comes
        from the row or from `prompt.index`.
        """
        ...

    async def step(self, action: Action) -> Step:
        """Answer a turn of the policy."""
        ...

    async def close(self) -> None:
        """Free what the episode holds. Called once, however the episode ends; also where `reset` failed."""


class Scorer(Protocol):
    """The configured reward, called in the background."""

    async def score(self, action: Action, prompt: Prompt) -> float:
        """The reward of a response to the prompt, a rlscale.envs.score.Score where it is made of parts.

        RewardFailed if it cannot be told; let that pass.
        """
        ...


class SingleTurn(Environment):
    """One response per prompt, scored by the configured reward: the environment unless another is chosen."""

    def __init__(self, reward: Scorer) -> None:
        self._reward = reward

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The prompt as the data has it."""
        self._prompt = prompt
        return Start()

    async def step(self, action: Action) -> Step:
        """The end, with the reward of the response."""
        score = await self._reward.score(action, self._prompt)
        return Step(reward=score, done=True, info=info_of(score))
