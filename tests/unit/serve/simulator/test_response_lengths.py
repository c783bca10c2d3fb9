"""Lengths of responses: their law, and who shares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig
from rlscale.serve.simulator.response_lengths import ResponseLengths

LOG_NORMAL = LengthsConfig(median=100.0, sigma=1.0, cap=20.0)


def drawn(config: LengthsConfig, prompts: int = 2000, samples: int = 1, seed: int = 0) -> np.ndarray:
    lengths = ResponseLengths(config, seed)
    return np.array([[lengths.draw(p, 1000 * p + s) for s in range(samples)] for p in range(prompts)])


def test_the_log_normal_has_its_median_its_width_and_its_cap() -> None:
    found = drawn(LOG_NORMAL, 20_000)[:, 0]
    assert np.median(found) == pytest.approx(100, rel=0.03)
    assert np.std(np.log(found)) == pytest.approx(1.0, rel=0.05)
    assert found.max() == 2000
    # exp(1/2) = 1.6487 without the cap; the cap takes 0.0104 of it off (numerical integral)
    assert ResponseLengths(LOG_NORMAL, 0).mean(10**9) == pytest.approx(163.8, rel=0.005)
    assert found.mean() == pytest.approx(163.8, rel=0.03)


def test_the_mean_is_of_responses_that_are_cut() -> None:
    lengths = ResponseLengths(replace(LOG_NORMAL, law=LengthLaw.uniform), 0)
    assert lengths.mean(200) == pytest.approx(100, rel=0.01)
    assert lengths.mean(100) == pytest.approx(75, rel=0.01)  # half of them are 100, the others 50 on average


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 0.999, 1.0), (0.64, 0.59, 0.69), (0.0, -0.05, 0.05)])
def test_samples_of_a_prompt_are_as_alike_as_the_share_says(share: float, low: float, high: float) -> None:
    both = np.log(drawn(replace(LOG_NORMAL, prompt_share=share, cap=1e5), samples=2))
    assert low <= np.corrcoef(both.T)[0, 1] <= high + 1e-9


def test_the_same_seed_gives_the_same_lengths() -> None:
    assert (drawn(LOG_NORMAL, 50) == drawn(LOG_NORMAL, 50)).all()
    assert (drawn(LOG_NORMAL, 50) != drawn(LOG_NORMAL, 50, seed=1)).any()


def test_measured_lengths_are_drawn_as_often_as_they_occur(tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("7\n7\n7\n500\n")
    found = drawn(LengthsConfig(law=LengthLaw.measured, path=str(file)), 4000)
    assert set(np.unique(found)) == {7, 500}
    assert (found == 7).mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5\nlong\n", r"entry 2 is 'long', which is not a length"),
        ("", r"holds no length"),
        (None, r"cannot be read"),
    ],
)
def test_a_file_that_holds_no_lengths_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "lengths.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        ResponseLengths(LengthsConfig(law=LengthLaw.measured, path=str(file)), 0)


def test_measured_without_a_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"lengths.law=measured needs lengths.path"):
        ResponseLengths(LengthsConfig(law=LengthLaw.measured), 0)
