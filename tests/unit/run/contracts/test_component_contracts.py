"""The shipped components keep their contracts, and a broken one fails by the name of what it breaks."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.observe.trackers import TensorBoardTracker, TrackedRun
from rlscale.rollout.filters import keep_all, varied_rewards
from rlscale.rollout.service import RolloutService
from rlscale.run import contracts, loops
from rlscale.run.commands.check_hook import check_hook, kind_of
from rlscale.run.contracts import (
    COMPONENTS,
    check_buffer,
    check_filter,
    check_loop,
    check_service,
    check_tracker_class,
    check_transport,
)
from rlscale.run.verbs import Verbs
from rlscale.serve.engine_launcher import SglangLauncher
from rlscale.trainer.hook_contract.findings import Status, failed
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import TransferError
from tests.unit.run.contracts.broken_checks import broken

# ---- filters -------------------------------------------------------------------------------------------------------


def test_the_shipped_filters_and_that_of_the_example_keep_the_contract(own_parts: Any) -> None:
    for keep in (keep_all, varied_rewards, own_parts.not_solved):
        assert not failed(check_filter(lambda keep=keep: keep))


def reward_instead(group: Group) -> Any:
    return float(group.rewards.mean())


def sorts_the_group(group: Group) -> bool:
    group.samples.sort(key=lambda sample: -sample.reward)
    return True


def every_other(group: Group, seen: list[int] = []) -> bool:  # noqa: B006 - what it breaks is that it remembers
    seen.append(0)
    return len(seen) % 2 == 0


def keeps_nothing(group: Group) -> bool:
    return False


def test_a_broken_filter_fails_by_the_name_of_what_it_breaks() -> None:
    assert "answer" in broken(check_filter(lambda: reward_instead))
    assert "arguments" in broken(check_filter(lambda: sorts_the_group))
    assert "deterministic" in broken(check_filter(lambda: every_other))
    warned = [finding.check for finding in check_filter(lambda: keeps_nothing) if finding.status is Status.warned]
    assert warned == ["keeps"]


# ---- loops ---------------------------------------------------------------------------------------------------------


def test_the_shipped_loops_keep_the_contract() -> None:
    for loop in (loops.by_placement, loops.colocated, loops.disaggregated):
        assert all(finding.status is Status.passed for finding in check_loop(lambda loop=loop: loop))
    assert not failed(check_loop(lambda: loops.supervised))


def forgets_to_record(run: Verbs) -> None:
    run.begin()
    for _ in run.iterations():
        run.train(run.collect())
        run.sync()
        run.go_on()
    run.end()


def trains_on_something_else(run: Verbs) -> None:
    run.begin()
    for _ in run.iterations():
        run.collect()
        run.train([])
        run.record()
    run.end()


def never_begins(run: Verbs) -> None:
    for _ in run.iterations():
        run.train(run.collect())
        run.record()


def asks_for_a_verb_that_is_not_there(run: Verbs) -> None:
    run.begin()
    run.dance()  # type: ignore[attr-defined]  # what it breaks


def test_a_broken_loop_fails_by_the_name_of_what_it_breaks() -> None:
    assert {"record", "order"} <= broken(check_loop(lambda: forgets_to_record))
    assert "groups" in broken(check_loop(lambda: trains_on_something_else))
    assert {"begin", "end", "go_on"} <= broken(check_loop(lambda: never_begins))
    (finding,) = [f for f in check_loop(lambda: asks_for_a_verb_that_is_not_there) if f.status is Status.failed]
    assert "a run has no verb dance" in finding.found


# ---- transports ----------------------------------------------------------------------------------------------------


class DropsTheLast(SharedMemoryTransport):
    def send(self, bucket: Bucket) -> None:
        super().send(Bucket(bucket.named[:1], bucket.version))


class SaysAnotherVersion(SharedMemoryTransport):
    def send(self, bucket: Bucket) -> None:
        super().send(Bucket(bucket.named, bucket.version + 1))


class SendsTwice(SharedMemoryTransport):
    def send(self, bucket: Bucket) -> None:
        super().send(bucket)
        super().send(bucket)


class Silent(SharedMemoryTransport):
    def commit(self, version: int) -> None:
        try:
            super().commit(version)
        except TransferError:
            return


class Rounds(SharedMemoryTransport):
    def send(self, bucket: Bucket) -> None:
        super().send(
            Bucket([(name, tensor.bfloat16().to(tensor.dtype)) for name, tensor in bucket.named], bucket.version)
        )


def test_the_shipped_transport_of_this_machine_keeps_the_contract() -> None:
    assert not failed(check_transport(SharedMemoryTransport))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (DropsTheLast, "whole"),
        (SaysAnotherVersion, "version"),
        (SendsTwice, "once"),
        (Silent, "failure"),
        (Rounds, "bits"),
    ],
)
def test_a_broken_transport_fails_by_the_name_of_what_it_breaks(kind: type[SharedMemoryTransport], check: str) -> None:
    assert check in broken(check_transport(kind))


# ---- trackers (the shipped ones in tests/unit/observe/test_trackers.py) ----------------------------------------------


class OnlyNumbers:
    def __init__(self, run: TrackedRun) -> None:
        self.file = open(run.folder / "numbers.txt", "w")  # noqa: SIM115 - closed by close

    def log(self, iteration: int, metrics: Any) -> None:
        self.file.write(f"{iteration} {int(max(metrics.values()))}\n")

    def close(self) -> None:
        self.file.close()


def test_a_tracker_that_cannot_take_what_a_run_measures_is_told() -> None:
    (finding,) = [f for f in check_tracker_class(OnlyNumbers) if f.status is Status.failed]
    assert "OverflowError" in finding.found or "ValueError" in finding.found


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "kind"),
    [(Buffer, "buffer"), (SharedMemoryTransport, "transport"), (TensorBoardTracker, "tracker"),
     (RolloutService, "service"),
        (SglangLauncher, "engine"), (varied_rewards, "filter"), (loops.colocated, "loop")],
)  # fmt: skip
def test_what_a_component_is_is_told_from_its_methods_or_parameters(target: Any, kind: str) -> None:
    assert kind_of(target, "a.path") == kind
    assert kind in COMPONENTS


def test_check_hook_runs_the_contract_with_arguments_of_ones_own(
    own_parts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_hook(["hard_first.not_solved", "most=0.5"]) == 0
    assert "hard_first.not_solved as filter:" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"did you mean rollout\.filter\.most\?"):
        check_hook(["hard_first.not_solved", "mots=0.5"])


def test_rewards_of_a_made_group_are_what_was_asked_for() -> None:
    from rlscale.run.contracts.made_groups import made_group

    np.testing.assert_array_equal(made_group(0, 3, (0.0, 2.5)).rewards, [0.0, 2.5])


# ---- the examples of the docs --------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[4] / "docs" / "components.md"
GIVEN = """
import os, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch.distributed as dist
from rlscale.data.buffer import Buffer
from rlscale.rollout.service import RolloutService
from rlscale.serve.engine_launcher import SglangLauncher
from rlscale.trainer.megatron.trainer import MegatronTrainer
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
"""
"""What the examples of the docs leave out."""


def test_the_examples_of_the_docs_keep_their_contracts(tmp_path: Path) -> None:
    from rlscale.run.contracts.methods import check_methods
    from rlscale.serve.engine_launcher import EngineLauncher

    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(
        GIVEN.replace("from rlscale.trainer.megatron.trainer import MegatronTrainer", "MegatronTrainer = object"), made
    )
    for block in blocks:
        exec(block, made)
    sent = tmp_path / "sent.txt"
    found = {
        "HardFirst": check_buffer(made["HardFirst"]),
        "TimedService": check_service(made["TimedService"], made["TimedService"]),
        "LoggedTransport": check_transport(functools.partial(made["LoggedTransport"], file=sent)),
        "unless_held": check_loop(lambda: made["unless_held"]),
        "not_solved": check_filter(lambda: made["not_solved"]),
        "Alarm": check_tracker_class(functools.partial(made["Alarm"], name="bad", most=1.0, file=tmp_path / "alarms")),
        "PinnedLauncher": check_methods(made["PinnedLauncher"], EngineLauncher),  # started in tests/e2e/serve
    }
    assert {name: failed(findings) for name, findings in found.items()} == {name: [] for name in found}
    assert [line.split(":")[0] for line in sent.read_text().splitlines()] == ["version 3", "version 4"]
    assert (tmp_path / "alarms").read_text().splitlines()[0] == "run-None, iteration 3: bad is nan"
    classes = re.findall(r"^(?:class|def) (\w+)", "\n".join(blocks), re.MULTILINE)
    assert set(classes) == {*found, "CountingTrainer"}  # that one in tests/dist


def sends_while_engines_generate(run: Verbs) -> None:
    run.begin()
    for _ in run.iterations():
        run.train(run.collect())
        run.sync()
        run.pause_generation()
        run.record()
        run.go_on()
    run.end()


def test_a_loop_that_sends_weights_while_engines_generate_is_told_where() -> None:
    (finding,) = failed(check_loop(lambda: sends_while_engines_generate))
    assert (finding.check, finding.found) == ("pause", "sync after train, sync after train, sync after train")


def test_the_package_has_every_contract_that_it_names_and_no_other() -> None:
    assert all(callable(getattr(contracts, name)) for name in contracts.__all__ if name != "COMPONENTS")
    with pytest.raises(AttributeError, match=r"rlscale\.run\.contracts has no check_bufer"):
        _ = contracts.check_bufer
