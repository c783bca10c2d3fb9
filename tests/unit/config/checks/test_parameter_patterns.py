"""Patterns over the names of parameters, before there is a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.frozen=[transformer.h.*]", "trainer.frozen=transformer.h.*: matches no parameter of the model"),
        ("trainer.frozen=['*']", "trainer.frozen=*: is every parameter, so that nothing would be trained"),
        (
            "optim.groups.a={pattern: 'model.layers.*.mlp.gat.weight', lr_mult: 2}",
            "optim.groups.a.pattern=model.layers.*.mlp.gat.weight: matches no parameter of the model",
        ),
    ],
)
def test_a_pattern_that_names_nothing_or_everything_is_refused(
    problems: Callable[..., list[str]], override: str, line: str
) -> None:
    (found,) = problems(override)
    assert found.startswith(line)


def test_a_pattern_that_names_some_parameters_is_fine(problems: Callable[..., list[str]]) -> None:
    assert problems("trainer.frozen=[model.embed_tokens.*]") == []
    assert problems("trainer.frozen=['model.layers.0.*']", "algo=ppo", "critic.trainer.frozen=['*norm*']") == []
