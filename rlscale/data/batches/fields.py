"""The registry of batch fields: it alone says how a column is stored, sent, carried by micro-batches and filled.

A field of your own is one line in a module that every process of a run imports anyway, such as that of your loss:

    WEIGHT = FIELDS.register(Field("example_weight", np.float32, Scope.sample))

Samples bring it as `sample.columns["example_weight"]`, hooks read it as `inputs.columns["example_weight"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Scope(Enum):
    """What a column has one value for.

    `token`: each token of each row. `segment` and `sample`: each row (all rows of a sample hold the same value where
    the scope is `sample`). `batch`: the whole batch, a 0-d array.
    """

    token = "token"
    segment = "segment"
    sample = "sample"
    batch = "batch"


class Maker(Enum):
    """Who gives a column its numbers; the value is the name in a message."""

    rollout = "the rollout"
    engine = "the engines"
    policy = "the policy"
    reference = "the reference"
    teacher = "the teacher"
    critic = "the critic"
    preparation = "the preparation of the batch"
    hook = "your own code"

    @property
    def is_model(self) -> bool:
        """Whether a model of the trainer makes it, in a pass of its own."""
        return self in (Maker.policy, Maker.reference, Maker.teacher, Maker.critic)


@dataclass(frozen=True)
class Field:
    """One column of a batch."""

    name: str
    dtype: DTypeLike
    """Values are cast to it."""
    scope: Scope
    fill: float | int | bool = 0
    """The value of padding and dummies."""
    made_by: Maker = Maker.hook
    axes: int = 0
    """Number of axes that a value has itself."""
    of_input: bool = False
    """Of a token column: whether it belongs to the token's own pass through the model and not, as others do, to the
    position that predicts the token."""
    on_ranks: bool = True
    """Whether micro-batches carry it, on the device; a value of a row is then repeated for each of its tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))  # `float` and "float64" are one type


class Fields(Mapping[str, Field]):
    """Fields by name. They are registered while modules are imported, and never change after that."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._fields: dict[str, Field] = {}
        for field in fields:
            self.register(field)

    def register(self, field: Field) -> Field:
        """Add a field. ValueError for a name that another one has; the same field again is fine."""
        if not field.name.isidentifier():
            raise ValueError(f"a batch field cannot be called {field.name!r}; use letters, digits and underscores")
        known = self._fields.setdefault(field.name, field)
        if repr(known) != repr(field):  # NaN does not equal itself
            raise ValueError(f"there is another batch field {field.name!r} already ({known}); choose another name")
        return field

    def __getitem__(self, name: str) -> Field:
        if name not in self._fields:
            raise KeyError(
                f"{name!r} is not a batch field in this process; register it with "
                "rlscale.data.batches.fields.FIELDS.register in a module that every process imports, as your hook's"
            )
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


# The reward of a turn at the last token of it, NaN elsewhere; there where `algo.turn_discount` is set.
TURN_REWARD = Field("turn_reward", np.float64, Scope.token, float("nan"), Maker.rollout, on_ranks=False)

STALE = "stale"
"""Name of the column that says which tokens are over the staleness bound."""

APPROXIMATE = "approximate"
"""Name of the column that says which tokens come from keys and values of older weights than the token's version."""

_TOKEN, _SEGMENT, _SAMPLE = Scope.token, Scope.segment, Scope.sample

# The words that top-p or top-k left to draw the token from, filled up with -1; all -1 where nothing was left out.
SUPPORT = Field("sampling_support", np.int32, _TOKEN, -1, Maker.engine, axes=1)

# The temperature that the token was drawn at over the run's; there where a batch has tokens of several.
RELATIVE_TEMPERATURE = Field("relative_temperature", np.float32, _TOKEN, 1.0, Maker.engine)

# The likeliest words where the token was drawn, filled up with -1, and their log-probs: the sampler's, of the words
# that were left to draw from. There where `algo.correction.score_centering` asks for them; 8 bytes for each word.
SAMPLER_WORDS = Field("sampler_words", np.int32, _TOKEN, -1, Maker.engine, axes=1)
SAMPLER_LOGPROBS = Field("sampler_logprobs", np.float32, _TOKEN, 0, Maker.engine, axes=1)

FIELDS = Fields(
    (
        # One value per token, aligned to the token itself (not to the position that predicts it).
        Field("tokens", np.int32, _TOKEN, 0, Maker.rollout, of_input=True),
        Field("loss_mask", np.bool_, _TOKEN, False, Maker.rollout),
        Field("rollout_logprobs", np.float32, _TOKEN, 0, Maker.engine),
        Field("versions", np.int32, _TOKEN, -1, Maker.engine),
        # The experts that the engine sent the token to, [tokens, layers, top_k]; -1 where it did not say.
        Field("routed_experts", np.int16, _TOKEN, -1, Maker.engine, axes=2, of_input=True),
        Field(APPROXIMATE, np.bool_, _TOKEN, False, Maker.engine),
        SUPPORT,
        RELATIVE_TEMPERATURE,
        SAMPLER_WORDS,
        SAMPLER_LOGPROBS,
        TURN_REWARD,
        Field("old_logprobs", np.float32, _TOKEN, 0, Maker.policy),
        Field("ref_logprobs", np.float32, _TOKEN, 0, Maker.reference),
        Field("teacher_logprobs", np.float32, _TOKEN, 0, Maker.teacher),
        # Generated by weights over the staleness bound: the loss leaves it out, its denominator does not.
        Field(STALE, np.bool_, _TOKEN, False, Maker.rollout, on_ranks=False),
        Field("values", np.float32, _TOKEN, 0, Maker.critic),  # before the iteration's first step
        Field("loss_weight", np.float32, _TOKEN, 0, Maker.preparation),
        Field("advantages", np.float32, _TOKEN, 0, Maker.preparation),
        Field("returns", np.float32, _TOKEN, 0, Maker.preparation),  # what the critic's values should have been
        Field("value_weight", np.float32, _TOKEN, 0, Maker.preparation),  # weight in the critic's loss
        Field("correction", np.float32, _TOKEN, 0, Maker.preparation),  # factor on the token's policy loss
        # One value per row. What only the driver reads does not go to the device.
        Field("sample", np.int64, _SEGMENT, -1, Maker.rollout, on_ranks=False),  # its number within the iteration
        Field("step", np.int64, _SEGMENT, -1, Maker.rollout, on_ranks=False),  # optimizer step that trains on the row
        Field("group", np.int64, _SAMPLE, -1, Maker.rollout, on_ranks=False),  # its number within the iteration
        Field("prompt", np.int64, _SAMPLE, -1, Maker.rollout, on_ranks=False),  # Prompt.index
        Field("reward", np.float64, _SAMPLE, float("nan"), Maker.rollout, on_ranks=False),
        Field("prompt_length", np.int64, _SEGMENT, 0, Maker.rollout, on_ranks=False),  # what it began with
        Field("truncated", np.bool_, _SAMPLE, False, Maker.rollout, on_ranks=False),
        # One value for the batch: the trainer's weight version.
        Field("version", np.int64, Scope.batch, -1, Maker.preparation, on_ranks=False),
    )
)
"""Every column that a batch may have, by name."""


def equally_wide(values: Sequence[NDArray[Any]], field: Field) -> list[NDArray[Any]]:
    """Values of a field that has an axis of its own, whose sizes may differ, as wide as the widest of them."""
    widths = {value.shape[1] for value in values if value.ndim == 2}
    if field.axes != 1 or len(widths) < 2:
        return list(values)
    wide = max(widths)
    return [
        np.pad(value, ((0, 0), (0, wide - value.shape[1])), constant_values=field.fill) if value.ndim == 2 else value
        for value in values
    ]
