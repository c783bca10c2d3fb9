"""The dashboard in a real browser: what is drawn, clicked and dragged, at the width of a desk and of a phone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from rlscale.config.schema.rollout_config import StoreFormat
from rlscale.dashboard.found_runs import run_id
from rlscale.dashboard.page_server import PageServer
from rlscale.observe.report import write_report
from tests.e2e.dashboard.browser import PROGRAM, Browser, opened
from tests.unit.dashboard.written_run import store_rollouts, write_run

CHARTS = "[...document.querySelectorAll('#charts [data-metric]')].map((one) => one.dataset.metric)"
TEXT = "document.body.innerText"


@pytest.mark.skipif(PROGRAM is None, reason="no browser: make browser, or apt-get install chromium")
def test_two_runs_in_a_browser(tmp_path: Path) -> None:
    first, second = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    write_run(first, 40)
    write_run(second, 40, reward=0.5)
    store_rollouts(first, StoreFormat.parquet)

    async def scenario() -> None:
        server = PageServer([tmp_path / "runs"])
        await server.start()
        try:
            url = f"{server.url}#{run_id(first.resolve())}"
            async with opened(url, tmp_path) as browser:
                await sees_the_run(browser)
                await compares_and_zooms(browser)
                await goes_down_to_a_token(browser)
                await follows(browser, first)
                await browser.picture(tmp_path / "dashboard.png")
                await browser.wide(390)
                await browser.call("Page.reload")
                await browser.until(f"innerWidth === 390 && {CHARTS}.includes('reward')")
                assert await browser.value("document.documentElement.scrollWidth") <= 390, "nothing to scroll sideways"
                await browser.picture(tmp_path / "dashboard-phone.png")
                assert browser.complaints == []
                await goes_on_without_its_groups(browser, first)
                await tells_apart_who_has_a_metric(browser, second)
                browser.complaints.clear()
                await tells_tokens_in_the_report_too(browser, write_report(first))
        finally:
            await server.close()

    asyncio.run(scenario())
    assert (tmp_path / "dashboard-phone.png").stat().st_size > 10_000


async def tells_tokens_in_the_report_too(browser: Browser, report: Path) -> None:
    """The same tokens with the same numbers in the file that stands for itself."""
    await browser.call("Page.navigate", url=report.as_uri())
    await browser.until("document.querySelectorAll('[data-tokens]').length === 4")
    await browser.value("(() => { for (const one of document.querySelectorAll('details')) one.open = true; })()")
    await browser.until("document.querySelectorAll('.token-text span').length === 20")
    await browser.value("document.querySelectorAll('.token-text span')[3].dispatchEvent(new Event('pointerenter'))")
    told = "document.querySelector('.tokens .note').innerText"
    assert await browser.value(told) == "token 4: probability 0.25, advantage -1, ratio 2, weights 4, trained on"
    assert browser.complaints == []


async def goes_on_without_its_groups(browser: Browser, run: Path) -> None:
    """Rollouts of an iteration that is not stored are said to be missing; the curves go on."""
    await browser.value(f"choose(['{run_id(run.resolve())}'], '{run_id(run.resolve())}'); state.iteration = 2; 1")
    await browser.until("document.getElementById('groups').innerText.includes('iteration 2 is not stored')")
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 42, "reward": 1.0}) + "\n")
    await browser.until("charts.get('reward')?.plot?.data[0].length === 42")


async def tells_apart_who_has_a_metric(browser: Browser, run: Path) -> None:
    """A metric of the second run alone is read out in that run's colour."""
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 41, "only_here": 7.0}) + "\n")
    name = run_id(run.resolve())
    await browser.value(f"choose([state.focus, '{name}'], state.focus); 1")
    await browser.value(
        "(() => { const f = document.getElementById('metric-filter'); f.value = '^only_here$'; "
        "f.dispatchEvent(new Event('input')); })()"
    )
    dot = "document.querySelector('[data-metric=only_here] .readout i')"
    wanted = f"(() => {{ const i = make('i'); i.style.background = colorOf('{name}'); return i.style.background; }})()"
    await browser.until(f"{dot} && {dot}.style.background === {wanted}")


async def sees_the_run(browser: Browser) -> None:
    """Curves that are drawn, advice, lanes, fates, engines and the log."""
    await browser.until(f"{CHARTS}.includes('reward')")
    assert await browser.value(
        "(() => { const c = document.querySelector('[data-metric=reward] canvas'); "
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((one) => one > 0); })()"
    )
    text = await browser.until(f"{TEXT}.includes('<b>last</b>') && {TEXT}")
    assert "the trainer waited 75.0 % of the last 20 iterations for the engines" in text
    await browser.until(f"{TEXT}.includes('running, iteration 40')")
    assert "127.0.0.1:1" in text
    assert await browser.value("document.querySelectorAll('#lanes rect').length") > 50
    assert await browser.value("document.querySelectorAll('#fates .bar').length") == 2


async def compares_and_zooms(browser: Browser) -> None:
    """A second run beside the first, any metric by a filter, and a closer look by dragging."""
    await browser.value("[...document.querySelectorAll('#runs input')].find((one) => !one.checked).click()")
    await browser.until("document.querySelectorAll('[data-metric=reward] .readout b').length === 2")
    await browser.value(
        "(() => { const f = document.getElementById('metric-filter'); f.value = 'seconds_t|^reward$'; "
        "f.dispatchEvent(new Event('input')); })()"
    )
    assert await browser.until(f"{CHARTS}.length === 2 && {CHARTS}") == ["reward", "seconds_train"]
    await browser.drag("[data-metric=reward] .u-over", 0.25, 0.5)
    await browser.until("!document.getElementById('whole').hidden")
    low, high = await browser.value("state.zoom")
    assert 8 < low < 13
    assert 18 < high < 23
    await browser.until("charts.get('reward').plot.data[0].length < 20")
    await browser.value("document.getElementById('whole').click()")
    await browser.until("charts.get('reward').plot.data[0].length === 40")


async def goes_down_to_a_token(browser: Browser) -> None:
    """The group with the largest spread stands first; its sample, token by token."""
    assert await browser.value("document.querySelector('#groups tbody td').innerText") == "p7"
    await browser.value("document.querySelector('#groups tbody tr').click()")
    await browser.until("document.querySelectorAll('.token-text span').length === 5")
    await browser.value("document.querySelectorAll('.token-text span')[3].dispatchEvent(new Event('pointerenter'))")
    assert "probability 0.25, advantage -1, ratio 2, weights 4, trained on" in await browser.value(
        "document.querySelector('#tokens').innerText"
    )
    await browser.value(
        "(() => { const s = document.querySelector('#tokens select[aria-label=\"shaded by\"]'); s.value = 'ratio'; "
        "s.dispatchEvent(new Event('change')); })()"
    )
    await browser.until("document.querySelectorAll('.token-text span')[3]?.style.background.includes(' 49%')")
    await browser.value("[...document.querySelectorAll('#groups th button')].at(-1).click()")
    await browser.until("document.querySelector('#groups th:last-child').innerText.includes('↓')")


async def follows(browser: Browser, run: Path) -> None:
    """What the run writes is on the page within two seconds."""
    for iteration in range(41, 51):  # several tries: the machine may be busy
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"iteration": iteration, "reward": 1.0}) + "\n")
        began = time.monotonic()
        await browser.until(f"document.getElementById('live').innerText.includes('iteration {iteration}')")
        if time.monotonic() - began < 2.0:
            return
    raise AssertionError("ten lines took two seconds or longer")
