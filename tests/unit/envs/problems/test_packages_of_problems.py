"""The packages' own problems (the extras reasoning_gym and rlve_gym)."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.envs.problems.harmless_answers import is_formula
from rlscale.envs.problems.reasoning_gym_problems import REFUSED, SLOW, ReasoningGymProblems, answer_in
from rlscale.envs.problems.rlve_problems import RlveProblems

needs_packages = pytest.mark.usefixtures("extra_packages")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (" 12\n", "12"),
        ("<think><answer>1</answer></think> so <answer> 2 </answer>.", "2"),
        ("<answer>1</answer> or <answer>3", "3"),
    ],
)
def test_the_answer_is_in_its_tag_or_all_that_is_said(response: str, answer: str) -> None:
    assert answer_in(response) == answer


@pytest.mark.parametrize(("maker", "extra"), [(ReasoningGymProblems, "reasoning_gym"), (RlveProblems, "rlve_gym")])
def test_without_the_package_one_line_says_how_to_get_it(
    maker: type, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[maker.__module__], "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'rlscale\[{extra}\]'"):
        maker()


@needs_packages
def test_data_sets_by_name_with_their_levels() -> None:
    maker = ReasoningGymProblems()
    levels = maker.highest_levels([])
    assert len(levels) >= 95
    assert not set(levels) & {*REFUSED, *SLOW}
    assert set(maker.highest_levels(SLOW)) == set(SLOW)
    assert levels["spell_backward"] == 4
    # Levels that the data set itself refuses: the upper two of caesar_cipher, all of knight_swap's.
    assert (levels["caesar_cipher"], levels["knight_swap"]) == (1, None)
    for level in range(5):
        asked = maker.make("spell_backward", level, 2 * 10**9)
        assert asked == ReasoningGymProblems().make("spell_backward", level, 2 * 10**9)
        assert maker.score("spell_backward", level, 2 * 10**9, asked.answer) == 1.0
    with pytest.raises(ValueError, match="no data set 'spelling'"):
        maker.highest_levels(["spelling"])
    with pytest.raises(ValueError, match="any answer the full score"):
        maker.highest_levels(["game_of_life_halting"])


@needs_packages
def test_an_answer_that_makes_a_data_set_raise_is_wrong_and_parts_count_unless_exact() -> None:
    assert ReasoningGymProblems().score("prime_factorization", None, 0, "zzz") == 0.0
    assert 0 < ReasoningGymProblems().score("countdown", None, 0, "0") < 1
    assert ReasoningGymProblems(exact=True).score("countdown", None, 0, "0") == 0.0


@needs_packages
def test_options_reach_the_data_set_and_bounded_ones_go_round() -> None:
    short = ReasoningGymProblems({"letter_counting": {"min_words": 1, "max_words": 1}})
    assert len(short.make("letter_counting", None, 5).prompt.split('text: "')[1].split()) == 1
    assert short.make("word_ladder", None, 7 + 500 * 3) == short.make("word_ladder", None, 7)


@needs_packages
def test_the_words_that_the_recipe_measures_are_none_of_those_that_it_trains_on() -> None:
    held_out = ReasoningGymProblems({"spell_backward": {"data_file": "holdout_words.txt"}})
    others = {held_out.make("spell_backward", 0, seed).answer for seed in range(1, 1000, 2)}
    maker = ReasoningGymProblems()
    trained = {maker.make("spell_backward", 0, seed).answer for seed in range(0, 8_000, 2)}
    assert len(others) == 50
    assert len(trained) > 1200
    assert not others & trained


@needs_packages
def test_rlve_makes_and_judges_and_keeps_the_global_generators() -> None:
    maker = RlveProblems()
    assert len(maker.highest_levels([])) == 398
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    easy, hard = (maker.make("Sorting", level, 12) for level in (0, 5))
    assert len(easy.answer.split()) < len(hard.answer.split())
    assert maker.score("Sorting", 5, 12, f"sorted: <answer>{hard.answer}</answer>") == 1.0
    assert maker.score("Sorting", 5, 12, "zzz") == 0.0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, numpy)


FORMULA_OF_REASONING_GYM = ["countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration"]
LISTS = ["binary_matrix", "n_queens", "spiral_matrix", "string_insertion"]


@needs_packages
@pytest.mark.parametrize(
    ("maker", "names"),
    [
        (ReasoningGymProblems, [*FORMULA_OF_REASONING_GYM, "puzzle24", *LISTS]),
        (RlveProblems, ["Differentiate", "Integral"]),
    ],
)
def test_an_answer_that_is_a_program_is_not_run(maker: type, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package has Python compute the answer: it would run with all rights of the run."""
    made, program = maker(), "__import__('sys').audit('tests.answer_executed')"
    executed: list[str] = []
    # No audit hook: it would be called for every event of this process and could not be taken away again.
    monkeypatch.setattr(sys, "audit", lambda event, *_: executed.append(event))
    eval(program)
    assert executed == ["tests.answer_executed"]
    executed.clear()
    for name in names:
        asked = made.make(name, 0, 4)
        for answer in (program, f"[{program}]", f"x + {program}", f'sin("{program}")', f"sin({program})"):
            assert made.score(name, 0, 4, answer) < 1, name
        assert "tests.answer_executed" not in executed, name
        assert made.score(name, 0, 4, asked.answer) == 1.0, name


@needs_packages
def test_no_number_is_no_answer_and_a_list_is_one_where_the_data_set_takes_it() -> None:
    maker = ReasoningGymProblems()
    assert maker.score("complex_arithmetic", 0, 2, "NaN") == 0.0
    asked = maker.make("string_insertion", 0, 2)
    assert maker.score("string_insertion", 0, 2, str(list(asked.answer))) == 0.1


@pytest.mark.parametrize("text", ["", "3*(4 - 1)/2.5e-3", "x**2*sin(2*x) + C", "log(x, 2)", "-.5*pi^2", "a b", "4!"])
def test_formulas_are_numbers_letters_and_known_functions(text: str) -> None:
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    ["exec", "x.real", "(1).real", "x.__class__", "'x'", "[x]", "x=5", "lambda: x", "\uff45", "x;y", "sin.f", "2.real"],
)
def test_what_is_more_is_no_formula(text: str) -> None:
    assert not is_formula(text)
