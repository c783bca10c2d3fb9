"""What is wrong with a delta or with the copy that it is for."""

from __future__ import annotations

from rlscale.config.errors import UserError


class DeltaError(UserError):
    """A delta that is not applied. The copy is as it was."""
