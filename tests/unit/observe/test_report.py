from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlscale.observe.metrics import MetricsLog
from rlscale.observe.report import write_report
from rlscale.observe.samples import ShownSample, write_samples
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
    write_samples(folder, "before", [ShownSample("before", hostile, "<i>7</i>", '"&', 0.0)])
    write_samples(folder, "after", [ShownSample("after", hostile, "8", '"&', 1.0)])
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
