from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlscale.data.sample import Group, Prompt, Sample
from rlscale.observe.atomic import write_text
from rlscale.observe.samples import SamplesLog, ShownSample, read_samples, shown
from rlscale.observe.summary import Summary


def group(index: int, text: str, reward: float, *, raw: str = "", task_reward: float | None = None) -> Group:
    """A group of two samples of the prompt 1+1, of which the first has this text and reward."""
    prompt = Prompt(index, str(index), np.array([1], np.int32), "2", text="1+1=")
    first, second = (Sample.from_response(prompt, i, np.array([2], np.int32), None, 0, text=text) for i in range(2))
    first.reward, second.reward, first.raw_text = reward, -9.0, raw
    if task_reward is not None:
        first.info["task_reward"] = task_reward
    return Group(prompt, [first, second])


def test_the_first_answer_of_each_prompt_is_written_with_its_verdict_and_special_tokens(tmp_path: Path) -> None:
    groups = [group(3, "2", 1.0, raw="<think></think>2"), group(4, "2", 0.5), group(5, "2", 0.7, task_reward=1.0)]
    log = SamplesLog(tmp_path)
    log.log(shown(groups, "training", 10, success_reward=1.0))
    read = read_samples(tmp_path)
    assert [(s.iteration, s.index, s.response, s.reward) for s in read] == [
        (10, 3, "2", 1.0),
        (10, 4, "2", 0.5),
        (10, 5, "2", 0.7),
    ]
    assert [s.solved for s in read] == [True, False, True]
    assert (read[0].phase, read[0].prompt, read[0].label) == ("training", "1+1=", "2")
    assert read[0].raw_response == "<think></think>2"


def test_a_continued_run_drops_the_samples_that_it_will_make_again(tmp_path: Path) -> None:
    log = SamplesLog(tmp_path)
    for phase, iteration in (("before", 0), ("training", 1), ("training", 10), ("training", 20)):
        log.log([ShownSample(phase, "1+1", "3", iteration=iteration, index=0)])
    log.close()
    SamplesLog(tmp_path, resumed=15)
    assert [s.iteration for s in read_samples(tmp_path)] == [0, 1, 10]
    SamplesLog(tmp_path)
    assert read_samples(tmp_path) == []


def test_an_evaluation_that_a_kill_made_the_run_repeat_is_shown_once(tmp_path: Path) -> None:
    SamplesLog(tmp_path).log([ShownSample("before", "1+1", "3", index=0), ShownSample("before", "1+1", "4", index=1)])
    SamplesLog(tmp_path, resumed=0).log([ShownSample("before", "1+1", "5", index=0)])
    assert [(s.index, s.response) for s in read_samples(tmp_path)] == [(0, "5"), (1, "4")]


def test_samples_of_another_shape_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"phase": 3, "iteration": "x", "index": [], "solved": "yes"}\n')
    SamplesLog(tmp_path, resumed=5)
    (sample,) = read_samples(tmp_path)
    assert (sample.phase, sample.iteration, sample.index, sample.solved) == ("3", 0, None, None)


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
