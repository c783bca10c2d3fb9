"""Sizes of the linears of a model's layers, as ranks that split them have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.families.family import dimensions
from rlscale.families.linears import is_of_expert, linear_rules


def split_linears(config: Mapping[str, Any], ranks: int, expert_ranks: int) -> Iterator[tuple[str, int, int]]:
    """(Megatron's name in a layer, rows, columns) of each kind on one rank, by a completed config.

    `ranks` of tensor parallelism split a layer, `expert_ranks` each of its experts.
    """
    sizes = dimensions(config)
    for rule in linear_rules(config):
        if not rule.numbers(config):
            continue
        parts = expert_ranks if is_of_expert(rule) else ranks
        rows, columns = sum(sizes[tensor.shape[0]] for tensor in rule.hf), sizes[rule.hf[0].shape[1]]
        if rule.split == 0:
            rows //= parts
        elif rule.split == 1:
            columns //= parts
        yield rule.megatron.partition("{layer}.")[2].format(expert=""), rows, columns


def not_multiple(config: Mapping[str, Any], multiple: int, ranks: int, expert_ranks: int) -> str | None:
    """What is said of the first linear whose rows or columns on a rank are no multiple; None where there is none."""
    for name, rows, columns in split_linears(config, ranks, expert_ranks):
        if rows % multiple or columns % multiple:
            return f"{name} is {rows} x {columns} on each rank, and {multiple} does not divide both"
    return None
