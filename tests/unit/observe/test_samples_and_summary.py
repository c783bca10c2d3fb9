from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.observe.atomic import write_text
from rlscale.observe.samples import ShownSample, read_samples, write_samples
from rlscale.observe.summary import Summary


def test_samples_of_a_phase_are_replaced_and_those_of_others_stay(tmp_path: Path) -> None:
    write_samples(tmp_path, "before", [ShownSample("before", "1+1", "3", "2", 0.0)])
    write_samples(tmp_path, "after", [ShownSample("after", "1+1", "4", "2", 0.0)])
    write_samples(tmp_path, "after", [ShownSample("after", "1+1", "2", "2", 1.0)])
    assert [(s.phase, s.response, s.reward) for s in read_samples(tmp_path)] == [
        ("before", "3", 0.0),
        ("after", "2", 1.0),
    ]


def test_a_summary_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    summary = Summary(status="finished", recipe="arithmetic", eval_before=0.5, eval_after=0.9, tokens_generated=12)
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary


def test_a_summary_has_every_key_that_users_were_promised(tmp_path: Path) -> None:
    Summary().write(tmp_path)
    keys = set(json.loads((tmp_path / "summary.json").read_text()))
    assert keys >= {
        *("status", "wall_seconds", "iterations", "eval_before", "eval_after", "generate_seconds", "train_seconds"),
        *("sync_seconds", "other_seconds", "startup_seconds", "tokens_generated", "tokens_trained"),
        *("logprob_diff_mean", "logprob_diff_max", "ppo_kl_first_step"),
    }


def test_a_summary_with_a_number_that_is_not_finite_is_still_json(tmp_path: Path) -> None:
    Summary(logprob_diff_max=float("inf")).write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["logprob_diff_max"] is None


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_summary_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    assert Summary.read(tmp_path) is None


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "half \ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
