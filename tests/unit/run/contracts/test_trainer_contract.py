"""What the contract of a trainer says of one that cannot copy its state."""

from __future__ import annotations

from typing import Any, cast

from rlscale.run.contracts.trainer_contract import _copied
from rlscale.trainer.hook_contract.findings import Report, Status


class Copies:
    """The methods that copies need, and nothing else."""

    def state_key(self) -> tuple[int, ...]:
        return (0,)

    def copy_state(self, share: tuple[int, int] | None) -> tuple[bytes, Any]:
        return b"own", share

    def put_state(self, own: bytes, *parts: Any) -> None: ...


class Delegates:
    """Hands everything on to another object."""

    def __getattr__(self, name: str) -> Any:
        return getattr(Copies(), name)


def test_a_trainer_that_cannot_copy_its_state_is_warned_of_and_no_failure() -> None:
    report, trainer = Report(), cast("Any", object())
    assert _copied(report, trainer) is None
    ((check, status),) = [(finding.check, finding.status) for finding in report.findings]
    assert (check, status) == ("copy", Status.warned)


def test_one_that_hands_everything_on_is_asked_as_others_are() -> None:
    for trainer in (cast("Any", Copies()), cast("Any", Delegates())):
        assert _copied(Report(), trainer) == (b"own", (0, 1))
