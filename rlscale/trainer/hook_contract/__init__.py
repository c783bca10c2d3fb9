"""The contract tests of a user's score, advantage, loss, correction and reduction (see `rlscale.algo.protocols`).

Each takes the function as it is called in training (its own arguments already bound), or an instance of the class, and
gives one finding per check:

    from rlscale.trainer.hook_contract import check_loss, failed

    def test_my_loss():
        assert not failed(check_loss(my_loss))

`python -m rlscale check-hook my_module.my_loss` prints the same findings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlscale.trainer.hook_contract.array_hooks import check_advantage, check_reduction, check_score
from rlscale.trainer.hook_contract.findings import Finding, Status, failed
from rlscale.trainer.hook_contract.tensor_hooks import check_correction, check_loss

__all__ = [
    "CHECKS",
    "Finding",
    "Status",
    "check_advantage",
    "check_correction",
    "check_loss",
    "check_reduction",
    "check_score",
    "failed",
]

CHECKS: dict[str, Callable[[Any], list[Finding]]] = {
    "score": check_score,
    "advantage": check_advantage,
    "loss": check_loss,
    "correction": check_correction,
    "reduction": check_reduction,
}
"""The contract test of each kind of hook."""
