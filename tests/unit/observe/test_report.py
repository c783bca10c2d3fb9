from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlscale.observe.metrics import MetricsLog
from rlscale.observe.report import write_report
from rlscale.observe.samples import SamplesLog, ShownSample
from rlscale.observe.summary import Summary
from rlscale.observe.timeline import Timeline

_VOID = {"meta", "br", "img", "link", "input", "hr"}


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(folder: Path) -> tuple[str, Balanced]:
    page = write_report(folder).read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return page, parser


def write(folder: Path, *samples: ShownSample) -> None:
    log = SamplesLog(folder)
    log.log(samples)
    log.close()


def fill(folder: Path, iterations: int) -> None:
    """The files of a run of so many iterations."""
    log, timeline = MetricsLog(folder), Timeline(folder)
    log.log(0, {"eval/pass@1": 0.5})
    for i in range(1, iterations + 1):
        log.log(i, {"reward": 0.5 + i / 500, "entropy": 1.0, "ppo_kl": 0.0, "logprob_diff_mean": 1e-7, "loss": None})
        timeline.add("train", "driver", float(i), i + 0.5)
    log.close()
    timeline.close()
    hostile = "</pre><script>alert('prompt')</script>"
    write(folder, ShownSample("before", hostile, "<i>7</i>", '"&', 0.0), ShownSample("after", hostile, "8", '"&', 1.0))
    (folder / "resolved.yaml").write_text("# versions\nmodel:\n  name: </pre><script>alert('config')</script>\n")
    Summary(
        status="finished",
        recipe="<b>recipe</b>",
        eval_before=0.511,
        eval_after=0.949,
        iterations=iterations,
        generate_seconds=2.0,
        train_seconds=1.0,
        loop_seconds=3.0,
    ).write(folder)


@pytest.mark.parametrize("iterations", [1, 2, 150])
def test_the_page_shows_the_run_and_is_well_formed(tmp_path: Path, iterations: int) -> None:
    fill(tmp_path, iterations)
    page, parsed = parse(tmp_path)
    text = " ".join("".join(parsed.text).split())
    for part in ("51.1 %", "94.9 %", "Reward and accuracy", "Entropy", "Where the time went", "Before and after"):
        assert part in text
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)


def test_the_page_loads_nothing_and_text_from_the_run_cannot_become_markup(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    page, parsed = parse(tmp_path)
    assert "<script>alert" not in page
    assert "<b>recipe</b>" not in page
    assert "<i>7</i>" not in page
    assert page.count("<script") == 1
    assert parsed.tags.isdisjoint({"link", "img", "iframe", "object"})
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://", page)


def test_a_browser_runs_no_script_but_the_pages_own(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text(encoding="utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    ((attributes, script),) = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["script-src"], attributes) == ("'none'", f"'sha256-{digest}'", "")
    assert not re.search(r"\son[a-z]+=", page.replace(script, ""))
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_the_page_of_a_run_that_left_nothing_behind_is_still_a_page(tmp_path: Path) -> None:
    page, _ = parse(tmp_path)
    assert "unknown" in page


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    Summary(status="failed", message="the loss is not finite; lower optim.lr").write(tmp_path)
    page, _ = parse(tmp_path)
    assert "the loss is not finite; lower optim.lr" in page


def test_a_supervised_run_shows_its_loss_instead_of_a_reward(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(1, 5):
        log.log(i, {"loss": 3.0 / i, "grad_norm": 1.0})
    log.close()
    Summary(status="finished", iterations=4).write(tmp_path)
    page, _ = parse(tmp_path)
    assert "<h3>Loss</h3>" in page
    assert "Reward and accuracy" not in page
    assert "<small>3 →</small> 0.75" in page


def badges(page: str) -> list[tuple[str, str]]:
    """Colour and text of the rewards on the page."""
    return re.findall(r'<span class="reward (\w+)">([^<]+)</span>', page)


def test_only_an_answer_that_counts_as_solved_is_green(tmp_path: Path) -> None:
    rewards = [(1.0, True), (0.4, False), (0.0, False), (-1.0, False), (0.5, True), (1.0, None)]
    write(tmp_path, *(ShownSample("after", "1+1", "2", 2, r, s, index=i) for i, (r, s) in enumerate(rewards)))
    assert badges(parse(tmp_path)[0]) == [
        ("solved", "reward 1"),
        ("partial", "reward 0.4"),
        ("failed", "reward 0"),
        ("failed", "reward -1"),
        ("solved", "reward 0.5"),
        ("unjudged", "reward 1"),
    ]


def test_equal_prompts_have_a_row_each(tmp_path: Path) -> None:
    phases = [("before", 0), ("after", 9)]
    write(
        tmp_path,
        *(ShownSample(p, "Write a poem", f"{p} {i}", iteration=n, index=i) for p, n in phases for i in range(3)),
    )
    page, _ = parse(tmp_path)
    rows = re.findall(r"<tr><td.*?</tr>", page)
    assert len(rows) == 3
    for index, row in enumerate(rows):
        assert re.findall(r"(?:before|after) \d", row) == [f"before {index}", f"after {index}"]


def test_the_answers_of_any_iteration_can_be_chosen(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(ShownSample("training", "1+1", f"answer {i}", iteration=i, index=i) for i in (1, 10, 20)),
        ShownSample("during", "2+2", "evaluated 20", iteration=20, index=0),
    )
    page, _ = parse(tmp_path)
    assert re.findall(r"<option( selected)?>([^<]+)", page) == [
        ("", "iteration 1"),
        ("", "iteration 10"),
        ("", "iteration 20"),
        (" selected", "iteration 20, evaluation"),
    ]
    hidden = re.findall(r"<div( hidden)?><table>.*?(answer \d+|evaluated \d+)", page)
    assert hidden == [(" hidden", "answer 1"), (" hidden", "answer 10"), (" hidden", "answer 20"), ("", "evaluated 20")]


def test_a_long_run_offers_some_of_its_iterations_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, *(ShownSample("training", "1+1", "2", iteration=i, index=i) for i in range(1, 1001)))
    page, _ = parse(tmp_path)
    offered = [int(number.replace(",", "")) for number in re.findall(r"<option[^>]*>iteration ([\d,]+)", page)]
    assert len(offered) == 40
    assert (offered[0], offered[-1]) == (1, 1000)
    assert "40 of 1,000; samples.jsonl has all" in page


def test_special_tokens_are_shown_where_they_are_part_of_the_answer(tmp_path: Path) -> None:
    write(
        tmp_path,
        ShownSample("after", "1+1", "x 2", index=0, raw_response="<think>x</think> 2<|im_end|>"),
        ShownSample("after", "1+2", "3", index=1, raw_response="3<|im_end|>"),
    )
    _, parsed = parse(tmp_path)
    text = "|".join(parsed.text)
    assert "<think>x</think> 2<|im_end|>" in text
    assert "3<|im_end|>" not in text


@pytest.mark.parametrize(
    ("trained_on", "name"),
    [(0, "Held-out accuracy"), (7, "Accuracy in evaluation"), (None, "Accuracy in evaluation")],
)
def test_an_accuracy_is_called_held_out_only_when_it_is(tmp_path: Path, trained_on: int | None, name: str) -> None:
    log = MetricsLog(tmp_path)
    for i in range(3):
        log.log(i, {"eval/pass@1": i / 4, "reward": 0.5})
    log.close()
    Summary(eval_before=0.0, eval_after=0.5, eval_trained_on=trained_on).write(tmp_path)
    page, _ = parse(tmp_path)
    assert f"{name} (pass@1)" in page
    assert f"</i>{name.lower()} <b>" in page
    assert ("held-out" in page.lower().split("</style>")[1]) == (trained_on == 0)
    assert ("7 of its prompts are trained on" in page) == (trained_on == 7)


def test_pass_at_k_is_drawn_over_the_run_and_over_k(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in (0, 10):
        log.log(i, {"eval/pass@1": 0.1 + i / 20, "eval/pass@4": 0.4 + i / 20, "reward": 0.5})
    log.close()
    before, after = {"pass@1": 0.1, "pass@4": 0.4, "reward": 0.1}, {"pass@1": 0.6, "pass@4": 0.9, "reward": 0.7}
    Summary(eval_before_metrics=before, eval_after_metrics=after).write(tmp_path)
    charts = {json.loads(html.unescape(data))["xName"]: html.unescape(data) for data in drawn(tmp_path, "pass@k")}
    assert [s["points"] for s in json.loads(charts["iteration"])["series"]] == [
        [[0, 0.1], [10, 0.6]],
        [[0, 0.4], [10, 0.9]],
    ]
    assert [s["points"] for s in json.loads(charts["k ="])["series"]] == [[[1, 0.1], [4, 0.4]], [[1, 0.6], [4, 0.9]]]


def test_what_an_environment_made_of_the_run_is_drawn(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(3):
        turns = {"turns": 2.0 + i, "segments": 1.0, "segment_duplication": 1.0}
        log.log(i, {"reward": 0.5, "difficulty": 1.0 + i / 2, "reward_part/format": i / 4, **turns})
    log.close()
    (difficulty,) = drawn(tmp_path, "Difficulty of the prompts")
    assert json.loads(html.unescape(difficulty))["series"][0]["points"] == [[0, 1.0], [1, 1.5], [2, 2.0]]
    assert [len(drawn(tmp_path, title)) for title in ("Turns and segments", "Parts of the reward")] == [1, 1]
    assert 'type="search"' not in parse(tmp_path)[0]  # there are no conversations to search in


def drawn(folder: Path, title: str) -> list[str]:
    """The data of the charts whose title begins so."""
    return re.findall(rf'data-chart="([^"]+)"><figcaption><h3>{title}', parse(folder)[0])


def test_without_pass_at_k_there_is_no_chart_of_it_and_a_reward_of_zero_is_drawn(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(3):
        log.log(i, {"eval/pass@1": 0.0, "reward": 0.0, "staleness_mean": 0.0, "truncated": 0.0})
    log.close()
    page, _ = parse(tmp_path)
    assert drawn(tmp_path, "pass@k") == []
    assert len(drawn(tmp_path, "Reward and accuracy")) == 2
    assert drawn(tmp_path, "Staleness") == drawn(tmp_path, "Shares") == []
    assert "Zero throughout: Staleness" in page


def test_the_main_chart_fits_a_phone(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    page, _ = parse(tmp_path)
    boxes = re.findall(r'<div class="(on-wide|on-narrow)">(?:<figure.*?)?<svg viewBox="0 0 (\d+) ', page)
    assert boxes == [("on-wide", "1080"), ("on-narrow", "360"), ("on-wide", "1080"), ("on-narrow", "340")]
    style = page.split("</style>")[0]
    narrow = style.split("@media (max-width: 700px)")[1]
    assert ".on-wide { display: none; }" in narrow
    assert "min-width" not in narrow


def test_the_page_shows_what_became_of_prompts_and_tokens_and_how_stale_they_were(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    account = {"prompts/drawn": 10, "prompts/trained": 6, "prompts/under_way": 3, "prompts/failed_<b>": 1}
    ages = {f"staleness_tokens/{age}": float(number) for age, number in enumerate([0, 60, 0, 30, 0, 0, 4, 6])}
    log.log(1, {"staleness_tokens/0": 100.0, "length_ratio": 0.75})
    log.log(2, {**account, **ages, "staleness_mean": 2.0, "length_ratio": 0.98})
    log.close()
    text = " ".join(" ".join(parse(tmp_path)[1].text).split())
    assert "Prompts drawn trained 60.0 % 6 under way 30.0 % 3 failed <b> 10.0 % 1" in text
    assert "by staleness, in weight versions 0 50.0 % 100 1 30.0 % 60 3 15.0 % 30 6 and more 5.0 % 10" in text
    (ratio,) = drawn(tmp_path, "Trained length over started length")
    assert "[[1.0, 0.75], [2.0, 0.98]]" in ratio
    assert "Tokens received" not in text


def test_a_run_that_generates_nothing_has_no_accounts(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    assert "What became of prompts and tokens" not in parse(tmp_path)[0]


def test_what_the_last_iterations_call_for_is_advised(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(1, 30):
        log.log(i, {"reward": 0.5, "seconds_loop": 1.0, "truncated": 0.0 if i < 10 else 0.4})
    log.close()
    _, parsed = parse(tmp_path)
    assert "40.0 % of the responses were cut at rollout.max_response_tokens" in "".join(parsed.text)
