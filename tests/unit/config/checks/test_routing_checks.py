"""Replay of routing that could repeat nothing is one line that says why and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.config.mixture import MOE

Problems = Callable[..., list[str]]

RECORDED, ROLLOUT = "trainer.routing_replay=recorded", "trainer.routing_replay=rollout"
TWO_STEPS = "algo.steps_per_iteration=2"
BYPASS = "algo/correction=bypass"
DISAGGREGATED = "cluster.placement=disaggregated"


@pytest.mark.parametrize(
    "overrides",
    [
        [ROLLOUT],
        [ROLLOUT, TWO_STEPS],
        [ROLLOUT, BYPASS],
        [RECORDED, TWO_STEPS],
        [RECORDED, "algo.epochs_per_iteration=2"],
        [RECORDED, "algo.old_logprobs=always"],
        [RECORDED, "algo=ppo"],
    ],
)
def test_replay_of_a_choice_that_was_made_is_fine(problems: Problems, overrides: list[str]) -> None:
    assert problems(*MOE, *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([ROLLOUT], f"{ROLLOUT}: four_heads has no experts; set it to none, or choose a mixture of experts"),
        ([RECORDED, TWO_STEPS], f"{RECORDED}: four_heads has no experts; set it to none"),
        (
            [*MOE, "algo=sft", "rollout.samples_per_group=1", ROLLOUT],
            f"{ROLLOUT}: supervised training has no earlier pass or engine whose routing it could repeat; use none",
        ),
        (
            [*MOE, "algo=sft", "rollout.samples_per_group=1", RECORDED],
            f"{RECORDED}: supervised training has no earlier pass or engine whose routing it could repeat; use none",
        ),
        (
            [*MOE, RECORDED],
            f"{RECORDED} repeats the routing of the pass for the old log-probs, which is not made with one step and "
            "one epoch per iteration; use rollout or none, or algo.old_logprobs=always",
        ),
        (
            [*MOE, RECORDED, BYPASS, TWO_STEPS],
            f"{RECORDED} repeats the routing of the pass for the old log-probs, which algo.correction.bypass=true "
            "leaves out; use rollout, or none",
        ),
        (
            [*MOE, RECORDED, "algo.old_logprobs=behaviour", "rollout.max_staleness=1", DISAGGREGATED],
            f"{RECORDED} repeats the routing of one pass, but algo.old_logprobs=behaviour makes one for each version "
            "of the weights; use rollout, or none",
        ),
        (
            [*MOE, "algo=ppo", ROLLOUT, "critic.trainer.routing_replay=none"],
            "critic.trainer.routing_replay=none is never read: only the policy's routing is repeated; leave it out",
        ),
        *(
            (
                [*MOE, ROLLOUT, f"rollout.sglang.enable_return_routed_experts={given}"],
                "rollout.sglang.enable_return_routed_experts: is set by trainer.routing_replay and cannot be given",
            )
            for given in ("true", "false")
        ),
    ],
)
def test_replay_of_nothing_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*overrides)
    assert len(found) == 1
    assert found[0].startswith(line)
    assert "\n" not in found[0]


def test_a_model_that_cannot_be_read_yet_is_not_judged(problems: Problems) -> None:
    assert problems("model.create=null", "model.path=nobody/has-this", ROLLOUT) == []


def test_a_supervised_stage_before_the_run_is_held_to_it_too(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text(
        "defaults: [arithmetic_sft, _self_]\ntrainer: {routing_replay: rollout, threads: 1}\n"
    )
    (line,) = problems(*MOE, f"warm_start.recipe={tmp_path / 'stage.yaml'}")
    assert line.startswith(f"warm_start.recipe={tmp_path / 'stage.yaml'}: {ROLLOUT}: supervised training has no")
