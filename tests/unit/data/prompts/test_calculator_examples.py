"""Examples that ask the calculator, answer after it, or answer at once, of training problems alone."""

from __future__ import annotations

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, Operation
from rlscale.data.prompts.arithmetic import ArithmeticSource
from rlscale.data.prompts.calculator_examples import CalculatorExamples
from rlscale.data.prompts.sources import RawPrompt


def kind(example: RawPrompt) -> str:
    a, b = map(int, example.id.split("*"))
    if isinstance(example.prompt, list):
        asked, called, told = (message["content"] for message in example.prompt)
        assert (asked, called, told) == (f"{a}*{b}=", f"{a}*{b}?", str(a * b))
        assert example.label == told
        return "after the calculator"
    assert example.prompt == f"{a}*{b}="
    assert example.label in (f"{a}*{b}?", str(a * b))
    return "asks" if example.label.endswith("?") else "at once"


def test_half_are_answers_after_the_calculator_and_of_the_others_the_given_share_asks_it() -> None:
    kinds = [kind(example) for example in CalculatorExamples(asked=0.4).next(4000)]
    shares = {one: kinds.count(one) / len(kinds) for one in set(kinds)}
    assert shares == pytest.approx({"after the calculator": 0.5, "asks": 0.2, "at once": 0.3}, abs=0.03)


def test_no_problem_that_is_held_out_is_shown() -> None:
    held = ArithmeticSource(ArithmeticData(operation=Operation.multiply, split="held_out"))
    examples = CalculatorExamples()
    assert not {p.id for p in held.next(len(held))} & {p.id for p in examples.next(len(examples))}


def test_it_goes_on_where_it_was_saved() -> None:
    whole, resumed = CalculatorExamples(seed=3), CalculatorExamples(seed=3)
    expected = whole.next(20)[10:]
    half = CalculatorExamples(seed=3)
    half.next(10)
    resumed.load_state_dict(half.state_dict())
    assert resumed.next(10) == expected


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"asked=1.5: a share of the examples, from 0 to 1"):
        CalculatorExamples(asked=1.5)
