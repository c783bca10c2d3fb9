"""What is said where machines of a run's ranks are gone and no others are there for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlscale.config.errors import UserError


class MachinesGone(UserError):
    """Some of a run's machines are gone, and the cluster has too few others."""

    def __init__(self, others: Sequence[str], numbers: Collection[int], what: str) -> None:
        """`others`: the machines, with others in the place of those for which there are some; `numbers`: of the rest.

        `what`: words on what another one would need to have.
        """
        super().__init__(
            f"a machine of the trainer's ranks is gone, and the Ray cluster has no other{what}; start Ray on one, "
            "and the same command resumes the run"
        )
        self.others, self.numbers = list(others), frozenset(numbers)
