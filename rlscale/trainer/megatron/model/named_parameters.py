"""Parameters picked by patterns over their names in Hugging Face's form: those of the exported model.

Megatron keeps some of Hugging Face's tensors together (query, key and value; gate and up): a pattern picks all of such
a parameter or nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import Parameter

from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import ModelGroups, named_parameters


class NamedParameters:
    """The parameters of this rank by their names, and the names of the whole model. Build it on all ranks at once."""

    def __init__(self, chunks: Sequence[torch.nn.Module], weights: WeightMap, groups: ModelGroups) -> None:
        """`chunks`: this rank's model, without wrappers. Collective over all ranks."""
        named: Any = named_parameters(chunks, groups.expert)
        self._own: list[tuple[tuple[str, ...], Parameter]] = [
            (tuple(weights.hf_names(name)), parameter) for name, parameter in named
        ]
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, [names for names, _ in self._own])
        self._all = sorted({names for of_rank in every for names in of_rank})
        """Names of every parameter of the model, together where Megatron keeps tensors together."""

    def matching(self, pattern: str, key: str) -> list[Parameter]:
        """This rank's parameters that the pattern picks; `*`, `?` and `[...]` as in file names.

        UserError, the same on every rank, when it matches no parameter of the model, or a part of one.
        """
        picked = [names for names in self._all if any(fnmatchcase(name, pattern) for name in names)]
        if not picked:
            guess = nearest(pattern, (name for names in self._all for name in names))
            raise UserError(f"{key}={pattern}: matches no parameter of the model{did_you_mean(guess)}")
        for names in picked:
            left = [name for name in names if not fnmatchcase(name, pattern)]
            if left:
                raise UserError(
                    f"{key}={pattern}: Megatron keeps {', '.join(names)} in one parameter; the pattern must match all "
                    f"of them, and leaves out {', '.join(left)}"
                )
        wanted = set(picked)
        return [parameter for names, parameter in self._own if names in wanted]
