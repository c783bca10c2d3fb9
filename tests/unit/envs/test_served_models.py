"""Reaching a model of `rollout.models` by its name: a real HTTP server that moves, is away, and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rlscale.config.errors import UserError
from rlscale.envs.reward import RewardFailed
from rlscale.envs.rewards.judge import Judge
from rlscale.envs.rewards.pair_judge import ModelPairJudge
from rlscale.envs.rewards.service_client import Place, ServiceClient
from rlscale.envs.served_models import FOLDER, Address, AddressBook, ServedModel, declared
from rlscale.platform.ports import free_port


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddressBook:
    monkeypatch.setenv(FOLDER, "")  # so that it is put back
    return AddressBook(tmp_path / "models", ["judge", "other"])


class Server:
    """Answers chat completions with a score, and keeps what it was asked."""

    def __init__(self, port: int = 0, *statuses: int) -> None:
        self.asked: list[tuple[str, str | None, Any]] = []
        self._port, self._statuses = port, list(statuses)

    async def __aenter__(self) -> Server:
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Authorization"), await request.json()))
        if self._statuses:
            return web.Response(status=self._statuses.pop(0), text="no worker")
        return web.Response(text=json.dumps({"choices": [{"message": {"content": "Score: 7. Better: second"}}]}))


def test_a_judge_asks_the_model_of_its_name_where_it_is_now_and_with_its_key(book: AddressBook) -> None:
    async def scenario() -> None:
        judge = Judge("judge", "It is right.")  # made before the model is there, as in a run
        async with Server() as first, Server() as second:
            book.tell("judge", Address(first.url, "key-1", ""))
            assert await judge("Paris", "Paris", {}) == 0.7
            book.tell("judge", Address(second.url, None, ""))
            assert await judge("Paris", "Paris", {}) == 0.7
        ((path, key, body),) = first.asked
        assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer key-1", "judge")
        assert [key for _, key, _ in second.asked] == [None]

    asyncio.run(scenario())


def test_a_pair_judge_does_too(book: AddressBook) -> None:
    async def scenario() -> Any:
        from rlscale.data.sample import Prompt
        from rlscale.envs.environment import Action

        async with Server() as server:
            book.tell("other", Address(server.url, "k", ""))
            prompt = Prompt(index=0, id="0", tokens=None, label=None, text="2+2=")  # type: ignore[arg-type]  # unread
            action = Action(text="4", raw_text="4", tokens=())
            return await ModelPairJudge("other", "The right one.")(prompt, action, action)

    assert asyncio.run(scenario()) == 0.0


def test_a_model_that_is_started_again_is_waited_for_without_using_up_the_retries() -> None:
    async def scenario() -> None:
        port = free_port("127.0.0.1")
        client = ServiceClient.following(
            lambda: Place(f"http://127.0.0.1:{port}/v1", None), timeout_s=5.0, retries=0, wait_s=0.02
        )
        asked = asyncio.create_task(client.post({}))
        await asyncio.sleep(0.2)  # refused several times by now
        async with Server(port, 503, 502) as server:  # then a router without workers
            assert "choices" in await asked
            assert len(server.asked) == 3
        async with Server(port, 500) as server:
            with pytest.raises(RewardFailed, match="HTTP 500: no worker"):
                await client.post({})

    asyncio.run(scenario())


def test_openai_clients_get_url_and_key_also_in_processes_that_the_rollout_starts(book: AddressBook) -> None:
    book.tell("judge", Address("http://127.0.0.1:1", "key", ""))
    code = "from rlscale.envs.served_models import ServedModel as M; m = M('judge'); print(m.base_url, m.api_key)"
    told = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["http://127.0.0.1:1/v1", "key"]


def test_addresses_are_for_their_own_user_only(book: AddressBook) -> None:
    book.tell("judge", Address("http://127.0.0.1:1", "key", ""))
    folder = Path(os.environ[FOLDER])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "judge.json": 0o600,
        "other.json": 0o600,
    }


def test_a_model_that_nobody_serves_is_refused_when_what_uses_it_is_built(book: AddressBook) -> None:
    with pytest.raises(UserError, match=r"rollout\.models: there is no model jugde; did you mean judge\?"):
        Judge("jugde", "It is right.")
    with pytest.raises(RuntimeError, match="the model judge is not served yet"):
        ServedModel("judge").address()
    with pytest.raises(UserError, match=r"key_file=k is not read without url: rollout\.models\.judge has its own"):
        Judge("judge", "It is right.", key_file="k")
    with declared(["reward-model"]), pytest.raises(UserError, match="it has reward-model"):
        ServedModel("judge")


def test_outside_of_a_run_no_model_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(UserError, match=r"models of rollout\.models are served in a run only; give the url"):
        Judge("judge", "It is right.")
