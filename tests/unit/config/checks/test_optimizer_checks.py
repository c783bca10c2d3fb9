"""Groups of parameters, frozen ones, resets, and what overlaps: what is wrong is one line that says what to change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.optim_groups import OptimGroup, read_groups

Problems = Callable[..., list[str]]
ROUTER = "optim.groups.router={pattern: '*.mlp.gate.weight', lr_mult: 0.1}"
DISTRIBUTED = "trainer.distributed_optimizer=true"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["optim.groups.router={lr_mult: 0.1}"], "optim.groups.router.pattern: give a pattern of parameter names"),
        ([ROUTER, "optim.groups.router.lr_mul=2"], "optim.groups.router.lr_mul: unknown key; did you mean lr_mult?"),
        ([ROUTER, "optim.groups.router.lr_mult=0"], "must be above 0; trainer.frozen leaves parameters as they are"),
        (["optim.groups.router={pattern: '*'}"], "optim.groups.router changes nothing: give lr_mult or weight_decay"),
        (["optim.groups.router=3"], "optim.groups.router=3: must be a mapping with pattern"),
        ([ROUTER, "optim.groups.router.weight_decay=-1"], "optim.groups.router.weight_decay=-1: must be at least 0"),
        ([ROUTER, "optim.groups.router.weight_decay=1", "optim.weight_decay=0"], "needs optim.weight_decay above 0"),
        (["trainer.frozen=['']"], "trainer.frozen: an entry is empty"),
        (["optim.reset_every=9", "run.iterations=3"], "optim.reset_every=9 is never reached in run.iterations=3"),
        (["optim.reset_every=-1"], "optim.reset_every=-1: must be at least 0"),
        (["trainer.peak_tflops=0"], "trainer.peak_tflops=0.0: must be above 0"),
        (["optim.on_host=true"], "the optimizer is on the CPU already"),
        (["trainer.ddp.overlap_param_gather=true"], "needs trainer.distributed_optimizer=true"),
        ([DISTRIBUTED, "trainer.ddp.overlap_param_gather=true"], "needs trainer.ddp.overlap_grad_reduce=true"),
    ],
)
def test_what_does_not_fit_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*overrides)
    assert any(line in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ("{}", "optim.groups.a.pattern: give a pattern of parameter names"),
        ("{pattern: '*norm*', lr: 2}", "optim.groups.a.lr: unknown key"),
        ("{pattern: '*norm*', weight_decay: 0, lr_mult: -1}", "optim.groups.a.lr_mult=-1: must be above 0"),
    ],
)
def test_one_fault_of_a_group_is_one_line(problems: Problems, values: str, line: str) -> None:
    (found,) = problems(f"optim.groups.a={values}")
    assert found.startswith(line)


def test_of_a_critic_only_what_is_its_own_is_said_again(problems: Problems) -> None:
    (both,) = problems("algo=ppo", "trainer.ddp.overlap_param_gather=true")
    assert both.startswith("trainer.ddp.overlap_param_gather=true needs trainer.distributed_optimizer")
    (own,) = problems("algo=ppo", "critic.trainer.ddp.overlap_param_gather=true")
    assert own.startswith("critic.trainer.ddp.overlap_param_gather=true needs critic.trainer.distributed_optimizer")


def test_groups_keep_their_order_and_the_critic_follows(plain_recipe: str, problems: Problems) -> None:
    short = ["rollout.max_prompt_tokens=128", "rollout.max_response_tokens=128"]
    groups = [ROUTER, "optim.groups.a={pattern: '*norm*', weight_decay: 0}"]
    overrides = ["algo=ppo", "model=tiny_qwen3_moe", *short, *groups]
    config = compose(plain_recipe, overrides)
    expected = [OptimGroup("router", "*.mlp.gate.weight", lr_mult=0.1), OptimGroup("a", "*norm*", weight_decay=0)]
    assert read_groups(config.optim.groups) == expected
    assert config.critic.optim.groups == config.optim.groups
    assert problems(*overrides) == []
