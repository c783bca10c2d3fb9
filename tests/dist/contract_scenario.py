"""What a rank runs for the contracts of trainers and of an example's parts."""

from __future__ import annotations

import os
import sys
from typing import Any


def broken_trainers(
    rank: int, world_size: int, address: str, port: int, lines: list[list[str]], examples: str, folder: str
) -> dict[str, list[str]]:
    """Run the lines of the example in a folder, then the contract on the shipped trainer and on broken ones.

    The checks that each trainer fails. A line that fails is an AssertionError or a UserError.
    """
    sys.path.insert(0, examples)
    os.chdir(folder)
    from rlscale.run.contracts import check_trainer
    from rlscale.trainer.hook_contract.findings import failed
    from rlscale.trainer.megatron.trainer import MegatronTrainer
    from rlscale.weights.bucket import Bucket

    class ForgetsToLoad(MegatronTrainer):
        def load(self, folder: Any, resumed: bool = True) -> None:
            pass

        def put_state(self, own: bytes, *parts: Any) -> None:
            pass

    class CountsInIntegers(MegatronTrainer):
        def train_shard(self, *given: Any) -> Any:
            return {"steps": 1}

    class LeavesATensorOut(MegatronTrainer):
        def send_weights(self, version: int) -> dict[str, float]:
            transport: Any = self._transport
            send = transport.send
            transport.send = lambda bucket: send(Bucket(bucket.named[1:], bucket.version))
            return super().send_weights(version)

    class OtherArguments(MegatronTrainer):
        def send_weights(self) -> Any:
            return {}

    for line in lines:
        if line[1] != "pinned_launcher.PinnedLauncher":  # whose engine is forked in tests/e2e/serve
            _run(line)
    found = {}
    for kind in (MegatronTrainer, ForgetsToLoad, CountsInIntegers, LeavesATensorOut, OtherArguments):
        findings = check_trainer(kind, lambda spec, kind=kind: kind(spec, 0, 1, 0))
        assert len(findings) >= 16
        found[kind.__name__] = sorted(finding.check for finding in failed(findings))
    return found


def _run(line: list[str]) -> None:
    """A line of the command line, up to where a run would start."""
    from rlscale.config.checks import check
    from rlscale.config.composition.compose import compose
    from rlscale.run.commands.check_hook import check_hook
    from rlscale.run.preflight import preflight_of_sweep

    if line[0] == "check-hook":
        assert check_hook(line[1:]) == 0, line
        return
    config = compose(overrides=line)
    check(config)
    preflight_of_sweep(config)
