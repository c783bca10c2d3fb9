"""The dashboard over HTTP, with the files of runs as a run writes them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from rlscale.config.schema.rollout_config import StoreFormat
from rlscale.dashboard.answers_of_run import RunAnswers
from rlscale.dashboard.dashboard_command import dashboard
from rlscale.dashboard.found_runs import describe, find_runs, run_id
from rlscale.dashboard.page_server import PageServer
from rlscale.observe.metrics import MetricsLog
from rlscale.observe.summary import Summary
from rlscale.run.disk.run_folder import RunFolder
from tests.unit.dashboard.written_run import store_rollouts, write_run
from tests.unit.listening import listening

Ask = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def serving(*folders: Path) -> AsyncIterator[tuple[PageServer, Ask]]:
    server = PageServer(folders)
    await server.start()
    base, _, key = server.url.partition("/?key=")
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

            async def ask(path: str, status: int = 200, **given: Any) -> Any:
                async with session.get(f"{base}/api/{path}", params=given) as answer:
                    assert answer.status == status, await answer.text()
                    return await answer.json()

            yield server, ask
    finally:
        await server.close()


def test_runs_below_a_folder_are_listed_with_what_they_say_of_themselves(tmp_path: Path) -> None:
    write_run(tmp_path / "arithmetic" / "a", 2)
    write_run(tmp_path / "arithmetic" / "b", 2)
    (tmp_path / "arithmetic" / "b" / "run.json").write_text('{"recipe": "arithmetic", "state": "finished"}')
    Summary(status="failed", message="the loss is not finite").write(tmp_path / "arithmetic" / "b")

    async def scenario() -> None:
        async with serving(tmp_path) as (server, ask):
            assert listening(int(server.url.partition("/?key=")[0].rpartition(":")[2])) == ["127.0.0.1"]
            runs = {run["name"]: run for run in await ask("runs")}
            assert {name: run["status"] for name, run in runs.items()} == {"a": "running", "b": "failed"}
            assert runs["b"]["message"] == "the loss is not finite"
            assert runs["a"]["recipe"] == "arithmetic"

    asyncio.run(scenario())


def test_a_run_that_is_quiet_goes_on_while_somebody_holds_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path, 2)
    for name in ("metrics.jsonl", "timeline.jsonl", "run.json"):
        os.utime(tmp_path / name, (1e9, 1e9))
    held = RunFolder(tmp_path)
    held.acquire()
    assert describe(tmp_path)["status"] == "running"
    held.release()
    assert describe(tmp_path)["status"] == "not finished"


def test_files_that_nobody_may_look_at_or_that_are_nested_without_end_stop_no_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", 2)
    for name in ("run.json", "summary.json"):
        (tmp_path / "a" / name).write_text("[" * 100_000)
    (tmp_path / "closed").mkdir()
    look = os.stat

    def refused(path: Any, *given: Any, **named: Any) -> Any:
        if "closed" in os.fspath(path) or str(path).endswith("rank-0.log"):
            raise PermissionError(13, "Permission denied")
        return look(path, *given, **named)

    monkeypatch.setattr(os, "stat", refused)
    assert find_runs([tmp_path, tmp_path / "closed"]) == [tmp_path / "a"]
    assert describe(tmp_path / "a")["status"] == "running"
    assert RunAnswers(tmp_path / "a").about()["logs"] == []


def test_a_run_that_cannot_be_read_leaves_the_others_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, 3)
    first, second = (run_id((tmp_path / name).resolve()) for name in ("a", "b"))

    async def scenario() -> None:
        async with serving(tmp_path) as (server, ask):
            for run in (first, second):
                await ask(f"runs/{run}/about")
            monkeypatch.setattr(server._runs[first].reader, "refresh", lambda budget: 1 / 0)
            with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
                file.write('{"iteration": 4, "reward": 9.0}\n')
            while (await ask(f"runs/{second}/about"))["iteration"] == 3:
                await asyncio.sleep(0.05)
            monkeypatch.setattr(server._runs[first], "engines", lambda: 1 / 0)
            assert "a fault of the dashboard" in (await ask(f"runs/{first}/engines", 500))["error"]

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert [one.message for one in caplog.records] == [
        f"{tmp_path / 'a'} cannot be read on",
        f"/api/runs/{first}/engines could not be answered",
    ]


def test_a_runs_numbers_are_those_in_its_files(tmp_path: Path) -> None:
    write_run(tmp_path, 30)
    run = run_id(tmp_path.resolve())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, ask):
            about = await ask(f"runs/{run}/about")
            assert (about["iteration"], about["newest"]["reward"], about["logs"]) == (30, 0.3, ["rank-0.log"])
            assert "the trainer waited 75.0 % of the last 20 iterations for the engines" in about["advice"][0]["what"]
            curve = await ask(f"runs/{run}/curve", metric="reward")
            assert (curve["x"][4], curve["mean"][4]) == (5.0, 0.05)
            zoomed = await ask(f"runs/{run}/curve", metric="reward", **{"from": 10, "to": 12.5})
            assert zoomed["x"] == [10.0, 11.0, 12.0]
            engine = await ask(f"runs/{run}/curve", metric="engines/127.0.0.1:1/running")
            assert engine["mean"][-1] == 34.0
            assert await ask(f"runs/{run}/engines") == [
                {
                    "engine": "127.0.0.1:1",
                    "iteration": 30,
                    "running": 34.0,
                    "waiting": 0.0,
                    "usage": 0.25,
                    "restarts": 2,
                }
            ]
            fates = await ask(f"runs/{run}/fates")
            assert "1<b>75.0 %</b><em>900</em>" in fates
            lanes = await ask(f"runs/{run}/timeline", **{"from": 0, "to": 4})
            assert [lane["lane"] for lane in lanes["lanes"]] == ["engines", "trainer", "waiting"]
            assert lanes["lanes"][1]["spans"] == [["train", 1.5, 2.0], ["train", 3.5, 4.0]]
            assert await ask(f"runs/{run}/log", file="rank-0.log") == ["first", "<b>last</b>"]
            assert await ask(f"runs/{run}/log", file="../run.json") == []
            assert await ask(f"runs/{run}/groups") == {"iteration": None, "stored": [], "groups": []}

    asyncio.run(scenario())


def test_a_live_run_is_followed_within_two_seconds(tmp_path: Path) -> None:
    write_run(tmp_path, 3)
    run = run_id(tmp_path.resolve())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, ask):
            before = await ask(f"runs/{run}/about")
            last, took = 3, 9.0
            while took > 2.0 and last < 20:  # several tries: the machine may be busy
                last += 1
                with open(tmp_path / "metrics.jsonl", "a") as file:
                    file.write("" if last == 4 else "\n")
                    file.write(f'{{"iteration": {last}, "reward": 9.0}}\n{{"iteration": {last + 1}, "rew')
                began = time.monotonic()
                while (about := await ask(f"runs/{run}/about"))["iteration"] < last:
                    await asyncio.sleep(0.05)
                took = time.monotonic() - began
            assert took <= 2.0
            assert (about["iteration"], about["newest"]["reward"]) == (last, 9.0)
            assert about["read"] == 1.0, "half a line is not waited for"
            assert about["revision"] > before["revision"]

    asyncio.run(scenario())


def test_a_run_that_is_continued_from_a_checkpoint_loses_the_iterations_that_it_makes_again(tmp_path: Path) -> None:
    write_run(tmp_path, 9)
    run = run_id(tmp_path.resolve())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, ask):
            assert (await ask(f"runs/{run}/about"))["iteration"] == 9
            log = MetricsLog(tmp_path, resumed=4)
            log.log(5, {"reward": 2.0})
            log.close()
            while (await ask(f"runs/{run}/about"))["iteration"] != 5:
                await asyncio.sleep(0.05)
            assert (await ask(f"runs/{run}/curve", metric="reward"))["mean"] == [0.01, 0.02, 0.03, 0.04, 2.0]

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("form", StoreFormat)
def test_groups_lead_to_the_tokens_of_a_sample(form: StoreFormat, tmp_path: Path) -> None:
    write_run(tmp_path, 3)
    store_rollouts(tmp_path, form)
    run = run_id(tmp_path.resolve())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, ask):
            found = await ask(f"runs/{run}/groups")
            assert (found["iteration"], found["stored"]) == (3, [3, 3])
            first, second = found["groups"]
            assert (first["prompt"], first["spread"], first["length"], first["age"]) == ("p7", 0.5, 3.0, 1)
            assert (second["spread"], second["rows"], second["rewards"]) == (0.0, [2, 3], [0.5, 0.5])
            sample = await ask(f"runs/{run}/sample", iteration=3, row=1)
            assert sample["mask"] == [0, 0, 1, 1, 1]
            assert sample["probabilities"] == [None, None, 0.5, 0.25, 1.0]
            assert sample["versions"] == [-1, -1, 5, 5, 5]
            assert sample["advantages"] == [None, None, 1.0, 1.0, 1.0]
            assert sample["ratios"] == [None, None, 1.0, 2.0, 0.75]
            assert sample["texts"] == ["⟨1⟩", "⟨2⟩", "⟨3⟩", "⟨4⟩", "⟨5⟩"]
            assert "iteration 2 is not stored" in (await ask(f"runs/{run}/groups", 404, iteration=2))["error"]
            assert "has no sample 9" in (await ask(f"runs/{run}/sample", 404, iteration=3, row=9))["error"]

    asyncio.run(scenario())


def test_nothing_is_answered_without_the_key_or_by_another_name(tmp_path: Path) -> None:
    write_run(tmp_path, 1)

    async def scenario() -> None:
        async with serving(tmp_path) as (server, _), aiohttp.ClientSession() as session:
            base = server.url.partition("/?")[0]
            port = base.rpartition(":")[2]
            for path in ("/", "/api/runs", "/?key=wrong", "/nothing"):
                async with session.get(base + path) as answer:
                    assert answer.status == 401
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost:%s\r\nAuthorization: Bearer \xff\r\n\r\n" % port.encode())
            assert b" 401 " in await reader.readline()  # bytes that are no text
            writer.close()
            evil = {"Host": f"evil.example:{port}", "Authorization": f"Bearer {server.key}"}
            async with session.get(f"{base}/api/runs", headers=evil) as answer:
                assert answer.status == 401
            plain = {"Host": "127.0.0.1", "Authorization": f"Bearer {server.key}"}  # as browsers write port 80
            async with session.get(f"{base}/api/runs", headers=plain) as answer:
                assert answer.status == 200
            async with session.get(server.url) as answer:
                assert answer.status == 200

    asyncio.run(scenario())


def test_requests_that_are_not_the_pages_are_refused_in_a_line(tmp_path: Path) -> None:
    write_run(tmp_path, 1)
    run = run_id(tmp_path.resolve())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, ask):
            assert await ask("runs/none/about", 404) == {"error": "there is no such run any more"}
            for path, given in (
                ("sample", {"iteration": "x", "row": 1}),
                ("nothing", {}),
                ("curve", {}),
                ("timeline", {"from": "nan"}),
            ):
                assert "is not one of the page's" in (await ask(f"runs/{run}/{path}", 400, **given))["error"]

    asyncio.run(scenario())


def test_the_page_loads_nothing_and_a_browser_runs_its_two_scripts_only(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str]:
        async with (
            serving(tmp_path) as (server, _),
            aiohttp.ClientSession() as session,
            session.get(server.url) as answer,
        ):
            return await answer.text(), answer.headers["Content-Security-Policy"]

    page, policy = asyncio.run(scenario())
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for _, script in scripts]
    assert [attributes for attributes, _ in scripts] == ["", ""]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://|\son[a-z]+=", outside)
    assert "/*" not in outside.partition("</style>")[2]


def test_the_charting_library_is_as_published_with_its_licence() -> None:
    folder = Path(__file__).parents[3] / "rlscale" / "dashboard" / "vendor"
    library = (folder / "uPlot.iife.min.js").read_bytes()
    assert library.startswith(b"/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    assert hashlib.sha256(library).hexdigest() == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert (folder / "uPlot.LICENSE").read_text().startswith("The MIT License (MIT)")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: there is no such folder; name the folder of a run, or one above several"),
        (["port=x"], "port=x: must be a port, from 0 (a free one) to 65535"),
        (["--open"], "dashboard does not know '--open'; see python -m rlscale dashboard --help"),
    ],
)
def test_bad_input_is_a_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rlscale.cli import main

    assert main(["dashboard", *words]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_port_that_is_taken_is_said(taken: int, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"port={taken} is taken"):
        dashboard([str(tmp_path), f"port={taken}"])


def test_files_are_read_on_after_the_answers_and_in_the_end_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    server, now = PageServer([]), [100.0]
    monkeypatch.setattr("rlscale.dashboard.page_server.time", SimpleNamespace(monotonic=lambda: now[0]))
    server._answered = 100.0
    a: Any
    b: Any
    a, b = (SimpleNamespace(read_on=100.0) for _ in range(2))
    assert server._is_asked(a), "the next question may come at once"
    now[0] = 100.06
    assert not server._is_asked(a)
    server._answering = 1
    assert server._is_asked(a)
    now[0] = 100.6
    assert not server._is_asked(a), "whoever asks on and on sees what is new, too"
    a.read_on = 100.6
    assert not server._is_asked(b), "of each run, however often others are read"
