"""reward=math against tests/fixtures/math_answers.tsv, and what nobody can judge."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rlscale.envs.rewards.math import MathAnswer

TABLE = Path(__file__).parents[2] / "fixtures" / "math_answers.tsv"


def rows() -> list[tuple[str, str, float]]:
    lines = TABLE.read_text(encoding="utf-8").split("\n")
    cells = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(label, answer, float(verdict)) for label, answer, verdict in cells]


def response(answer: str) -> str:
    return answer[1:] if answer.startswith(">") else f"We think, and find \\boxed{{{answer}}}."


def test_every_answer_of_the_table_gets_its_verdict() -> None:
    reward = MathAnswer()
    wrong = [
        f"{label} | {answer}: {found}, not {verdict}"
        for label, answer, verdict in rows()
        if (found := reward(response(answer), label, {})) != verdict
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_at_least_150_answers_about_as_many_wrong_as_right() -> None:
    verdicts = [verdict for _, _, verdict in rows()]
    assert len(verdicts) >= 150
    assert set(verdicts) == {0.0, 1.0}
    assert 0.4 < sum(verdicts) / len(verdicts) < 0.6
    assert len({(label, answer) for label, answer, _ in rows()}) == len(verdicts)


def test_every_label_of_the_table_is_right_as_its_own_answer() -> None:
    reward = MathAnswer()
    for label in dict.fromkeys(label for label, _, _ in rows()):
        reward.check_label(label)


@pytest.mark.parametrize(("label", "answer"), [(42, "42"), (0.5, "1/2"), (1e-07, "10^{-7}"), (10**18, "10^{18}")])
def test_a_label_that_is_a_number_is_that_number(label: float, answer: str) -> None:
    MathAnswer().check_label(label)
    assert MathAnswer()(f"\\boxed{{{answer}}}", label, {}) == 1.0
    assert MathAnswer()(f"\\boxed{{{answer}3}}", label, {}) == 0.0


@pytest.mark.parametrize(
    "label", [r"\frac{1}{", r"\foo{2}{3}", "9^{9^{9}}", r"\int_0^1 x dx + ", "=", "((((", "1/0", r"\boxed{}", "?"]
)
def test_a_label_that_cannot_be_understood_is_an_error_and_no_zero(label: str) -> None:
    with pytest.raises(ValueError, match=r"the label .* cannot be read as mathematics, a number or words|is empty"):
        MathAnswer().check_label(label)
    with pytest.raises(ValueError, match="the label"):
        MathAnswer()(r"\boxed{5}", label, {})


@pytest.mark.parametrize(
    "garbage",
    [
        r"\boxed{9^{9^{9}}}",
        r"\boxed{9^9^9^9}",
        r"\boxed{((99!)!)!}",
        r"\boxed{1000000!}",
        r"\boxed{\sum_{n=1}^{10000000} \frac{1}{n^2}}",
        r"\boxed{\frac{1}{0}}",
        r"\boxed{\frac{}{}}",
        r"\boxed{1e9999}",
        "\\boxed{" + "(" * 5000 + "}",
        "\\boxed{" * 3000,
        "\\boxed{" + "\\{" * 600 + "1" + "\\}" * 600 + "}",
        "{" * 100_000,
        "$" * 100_001,
        "answer is " * 20_000,
        "1 " * 50_000,
        "\\boxed{" + "7" * 5000 + "}",
        "\\boxed{\x00\ud800}",
    ],
)
def test_a_response_of_garbage_is_wrong_at_once(garbage: str) -> None:
    reward = MathAnswer()
    reward(r"\boxed{\sqrt{3}}", r"\sqrt{2}", {})  # imports sympy
    started = time.process_time()
    assert [reward(garbage, label, {}) for label in ("5", r"\sqrt{2}", "x^2+1", "(1,2)")] == [0.0] * 4
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (r"\boxed{85}<|im_end|>", 1.0),
        (r"<think>8 and 5</think>\boxed{85}<|im_end|>", 1.0),
        (r"\boxed{8<|im_start|>5}<|im_end|>", 0.0),
        ("The answer is 85<|im_end|>", 1.0),
        ("The answer is 8<|im_start|><|endoftext|>5", 0.0),
    ],
)
def test_special_tokens_within_an_answer_of_mathematics_are_not_passed_over(raw: str, expected: float) -> None:
    text = raw
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"):
        text = text.replace(token, "")
    assert MathAnswer()(text, "85", {}, raw_response=raw) == expected
