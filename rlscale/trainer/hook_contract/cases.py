"""Random data for the contract tests of hooks: ragged in every way that training data can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from rlscale.data.batches.fields import FIELDS, Field, Scope

SEEDS = (0, 1, 2)
MAX_RESPONSE_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """One iteration: n samples in groups, R segments, T tokens. Arrays are never handed out, only copies of them."""

    name: str
    rewards: NDArray[np.float64]
    """[n]"""
    groups: NDArray[np.int64]
    """[n] group id, in any order."""
    sample: NDArray[np.int64]
    """[R] index of each segment's sample; a sample's segments are in its order, but others may lie between them."""
    lengths: NDArray[np.int64]
    """[R]"""
    step: NDArray[np.int64]
    """[R]"""
    mask: NDArray[np.bool_]
    """[T]"""
    columns: dict[str, NDArray]
    """[T, ...] each: logprobs, and every field that the ranks have, one's own included; a row's at each token."""
    of_samples: dict[str, NDArray]
    """[n, ...] each: every field that has one value per sample, rewards and groups included."""
    ordinary: bool = False
    """No corner: the numbers are such as occur in training."""

    @property
    def row_of_token(self) -> NDArray[np.int64]:
        """[T] number of each token's segment."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def tokens(self) -> int:
        return len(self.mask)

    @cached_property
    def masked(self) -> dict[str, Tensor]:
        """The columns, 0 where the mask is False."""
        made = {}
        for name, column in self.columns.items():
            mask = self.mask.reshape(-1, *[1] * (column.ndim - 1))
            made[name] = from_numpy(np.where(mask, column, np.zeros((), column.dtype)))
        return made

    def part(self, keep: NDArray[np.bool_]) -> Case:
        """Only the tokens [T] that `keep` names; segments stay, and may end up without tokens."""
        return replace(
            self,
            name=f"a part of {self.name}",
            lengths=np.bincount(self.row_of_token[keep], minlength=len(self.lengths)),
            mask=self.mask[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
        )

    def rows(self, order: NDArray[np.int64]) -> tuple[Case, NDArray[np.int64]]:
        """The segments in `order`, which may leave some out, and the old place [T'] of every token."""
        ends = np.cumsum(self.lengths)
        places = [np.arange(ends[row] - self.lengths[row], ends[row]) for row in order]
        place = np.concatenate([np.zeros(0, np.int64), *places])
        moved = replace(
            self,
            name=f"segments of {self.name} in another order",
            sample=self.sample[order],
            lengths=self.lengths[order],
            step=self.step[order],
            mask=self.mask[place],
            columns={name: column[place] for name, column in self.columns.items()},
        )
        return moved, place

    def with_samples(self, order: NDArray[np.int64]) -> Case:
        """The samples in another order, as far as rewards and groups go."""
        name = f"samples of {self.name} in another order"
        columns = {column: values[order] for column, values in self.of_samples.items()}
        return replace(self, name=name, rewards=self.rewards[order], groups=self.groups[order], of_samples=columns)

    def with_groups(self, groups: NDArray[np.int64]) -> Case:
        """The same groups [n] under other ids."""
        columns = {**self.of_samples, "group": groups}
        return replace(self, name=f"other group ids of {self.name}", groups=groups, of_samples=columns)

    def shuffled_rows(self, draw: np.random.Generator) -> NDArray[np.int64]:
        """A random order [R] of the segments that keeps the order within each sample."""
        order = draw.permutation(len(self.lengths))
        for number in np.unique(self.sample):
            own = np.flatnonzero(self.sample[order] == number)
            order[own] = np.sort(order[own])
        return order


def cases(seed: int) -> list[Case]:
    """The cases of one seed. The first is an ordinary one, the others are the corners."""
    usual = ragged(seed)
    corners = [
        replace(usual, name=f"nothing trainable, seed {seed}", mask=np.zeros_like(usual.mask), ordinary=False),
        ragged(seed, name="log-probs 100 apart", spread=100.0),
        one_token(seed),
    ]
    return [usual, *corners]


def ragged(seed: int, *, name: str = "ragged data", spread: float = 0.3, groups: int = 5, longest: int = 9) -> Case:
    """Groups of 1 to 5 samples of 1 to 3 segments; one group of equal rewards, one sample with nothing trainable.

    `spread`: size of the differences between kinds of log-probs, normal up to 1 and exactly +-spread beyond.
    """
    return _ragged(seed, name, spread, groups, longest, tuple(FIELDS.items()))


@lru_cache(maxsize=32)
def _ragged(
    seed: int, name: str, spread: float, groups: int, longest: int, fields: tuple[tuple[str, Field], ...]
) -> Case:
    """The same for these `fields`, which are all; one check after another asks for the same data."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, groups)
    sizes[:2] = 3
    ids = 7 * np.arange(groups) + 3
    group = draw.permutation(np.repeat(ids, sizes))
    samples = len(group)
    rewards = draw.choice([0.0, 0.25, 1.0, -3.5], samples)
    rewards[group == ids[1]] = 0.1
    sample = draw.permutation(np.repeat(np.arange(samples), draw.integers(1, 4, samples)))
    lengths = draw.integers(1, longest + 1, len(sample))
    tokens = int(lengths.sum())
    mask = draw.random(tokens) < 0.6
    mask[np.repeat(sample, lengths) == 1] = False
    step = draw.integers(0, 3, samples)[sample]
    return Case(
        name=f"{name}, seed {seed}",
        rewards=rewards,
        groups=group,
        sample=sample,
        lengths=lengths,
        step=step,
        mask=mask,
        columns=_columns(draw, sample, lengths, mask, spread),
        of_samples=_of_samples(rewards, group),
        ordinary=spread <= 1.0,
    )


def large() -> Case:
    """About 64k tokens in about 180 segments, for speed."""
    return ragged(0, groups=30, longest=720)


def one_token(seed: int) -> Case:
    """A single sample of a single trainable token."""
    draw = np.random.default_rng(seed)
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    mask = np.ones(1, bool)
    columns, rewards = _columns(draw, zero, one, mask, 0.3), draw.normal(size=1)
    return Case(f"one token, seed {seed}", rewards, one, zero, one, zero, mask, columns, _of_samples(rewards, one))


def no_tokens() -> Case:
    """T = 0: what a context-parallel rank may be given."""
    none = np.zeros(0, np.int64)
    mask, rewards = np.zeros(0, bool), np.zeros(0)
    columns = _columns(np.random.default_rng(0), none, none, mask, 0.3)
    return Case("no tokens", rewards, none, none, none, none, mask, columns, _of_samples(rewards, none))


def sums_over_segments(case: Case) -> Callable[[Tensor], Tensor]:
    """The `segment_sum` of a case: see `rlscale.algo.losses.SegmentSum`."""
    rows, count = from_numpy(case.row_of_token), len(case.lengths)

    def segment_sum(x: Tensor) -> Tensor:
        return x.new_zeros(count).index_add(0, rows, x)[rows]

    return segment_sum


def _columns(
    draw: np.random.Generator,
    sample: NDArray[np.int64],
    lengths: NDArray[np.int64],
    mask: NDArray[np.bool_],
    spread: float,
) -> dict[str, NDArray]:
    tokens = len(mask)

    def other(logprobs: NDArray[np.float64], size: float) -> NDArray[np.float64]:
        shift = draw.normal(size=tokens) if size <= 1.0 else draw.choice([-1.0, 0.0, 1.0], tokens)
        return logprobs + size * shift

    old = -draw.exponential(1.0, tokens)
    found = {
        "loss_mask": mask,
        "old_logprobs": old,
        "logprobs": other(old, spread),
        "rollout_logprobs": other(old, spread),
        "ref_logprobs": other(old, spread),
        "teacher_logprobs": other(old, spread),
        "values": draw.normal(size=tokens),
        "advantages": draw.normal(size=tokens),
    }
    again = np.random.default_rng(tokens)
    for name, field in FIELDS.items():
        if name in found or not field.on_ranks or field.of_input or field.scope is Scope.batch:
            continue
        if field.scope is Scope.token:
            found[name] = _numbers(again, field, tokens)
        else:
            rows = sample if field.scope is Scope.sample else np.arange(len(lengths))
            found[name] = np.repeat(_numbers(again, field, int(rows.max(initial=-1)) + 1)[rows], lengths, axis=0)
    return found


def _of_samples(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, NDArray]:
    draw = np.random.default_rng(len(rewards))
    fields = {name: field for name, field in FIELDS.items() if field.scope is Scope.sample}
    return {name: _numbers(draw, field, len(rewards)) for name, field in fields.items()} | {
        "reward": rewards,
        "group": groups,
    }


def _numbers(draw: np.random.Generator, field: Field, count: int) -> NDArray:
    """Random values of a field, [count] and its own axes."""
    shape = (count, *[2] * field.axes)
    kind = np.dtype(field.dtype).kind
    if kind == "f":
        return draw.normal(size=shape)
    whole = draw.integers(0, 9, shape)
    return whole > 4 if kind == "b" else whole
