"""A call of a tool ends before the step that it is part of."""

from __future__ import annotations

import inspect

import pytest

from rlscale.config.checks import check
from rlscale.config.checks.tool_calls import _CALL_S
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.envs.tool_environment import ToolEnvironment

TOOLS = ("env=tools", "env.tools._target_=rlscale.envs.calculator.Calculator")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["+env.call_s=60"], r"env\.call_s=60 is not below rollout\.step_timeout_s=60: .*; lower env\.call_s"),
        (["rollout.step_timeout_s=5"], r"env\.call_s=20 is not below rollout\.step_timeout_s=5"),
    ],
)
def test_a_call_that_may_take_as_long_as_its_step_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        check(compose(None, [*TOOLS, *overrides]))


def test_shorter_calls_and_environments_without_calls_are_fine() -> None:
    check(compose(None, [*TOOLS, "+env.call_s=59"]))
    check(compose(None, ["env=calculator", "rollout.step_timeout_s=5"]))


def test_the_default_is_that_of_the_environment() -> None:
    assert inspect.signature(ToolEnvironment).parameters["call_s"].default == _CALL_S
