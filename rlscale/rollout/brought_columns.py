"""Columns of the batch that an environment brings: one number for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.data.batches.fields import FIELDS, Maker, Scope


def brought_columns(given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The numbers as a sample's columns, 0-d arrays. UserError for a name or a value that no field of one's own has."""
    found = {}
    for name, value in given.items():
        said = f"the environment's step has a column {name!r}"
        field = FIELDS.get(name)
        if field is None:
            raise UserError(
                f"{said}, which is not registered in the rollout's process; register it with "
                "rlscale.data.batches.fields.FIELDS in a module that the environment's imports"
            )
        if field.made_by is not Maker.hook or field.scope is not Scope.sample or field.axes:
            raise UserError(f"{said}, which is not a field of your own with one number for each sample")
        try:
            found[name] = np.asarray(value).astype(field.dtype, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise UserError(f"{said} that is {value!r} instead of a number ({field.dtype})") from error
        if found[name].ndim:
            raise UserError(f"{said} that is {value!r} instead of one number")
    return found
