"""Which prompts an evaluation takes, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlscale.config.derived.eval_sets import eval_sets
from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData
from rlscale.data.configured_source import build_source
from rlscale.rollout.evaluation import EvalPrompts, eval_encoder, eval_prompts
from rlscale.rollout.rollout_spec import RolloutSpec


def prompts_of(spec: RolloutSpec, *more: Any, **others: Any) -> EvalPrompts:
    (chosen,) = eval_sets(spec.eval).values()
    return eval_prompts(chosen, eval_encoder(spec, chosen), *more, **others)


def test_an_evaluation_without_data_says_what_to_set(spec: RolloutSpec) -> None:
    with pytest.raises(UserError, match=r"eval.data is empty"):
        prompts_of(replace(spec, eval=replace(spec.eval, data=None)))
    few = replace(spec.eval, data=ArithmeticData(max_number=3, held_out_share=0.0), prompts=None)
    assert len(prompts_of(replace(spec, eval=few)).prompts) == 9


def test_an_evaluation_says_how_many_of_its_prompts_are_trained_on(spec: RolloutSpec) -> None:
    everything = replace(spec.data, held_out_share=0.0)
    assert prompts_of(spec, build_source(spec.data)).trained_on == 0
    assert prompts_of(spec, build_source(everything)).trained_on == 6
    assert prompts_of(spec).trained_on is None


def test_bad_prompts_of_an_evaluation_are_left_out_and_counted(spec: RolloutSpec) -> None:
    def no_nines(label: object) -> None:
        if "9" in str(label):
            raise ValueError("holds a nine")

    assert spec.eval.data is not None
    whole = replace(spec, eval=replace(spec.eval, prompts=None, data=replace(spec.eval.data, max_bad_rate=1.0)))
    everything, chosen = prompts_of(whole), prompts_of(whole, check_labels=no_nines)
    nines = sum("9" in str(prompt.label) for prompt in everything.prompts)
    assert chosen.dropped == nines > 0
    assert len(chosen.prompts) == len(everything.prompts) - nines
