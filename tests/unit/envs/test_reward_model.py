"""A reward model is shown the conversation in its own tokens, and its one number is the score."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.envs.rewards.reward_model import RewardModel
from rlscale.envs.score import Failed
from rlscale.envs.served_models import FOLDER, Address, AddressBook

QUESTION = [{"role": "user", "content": "1+1="}]


@pytest.mark.parametrize(("said", "score"), [([0.25], 0.5), ([0.1, 0.2], Failed)])
def test_the_score_is_the_one_number(
    said: list[float], score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, "")  # so that it is put back
    book = AddressBook(tmp_path / "models", ["judge"])
    tokenizer = character_tokenizer("0123456789+=", 64)
    tokenizer.save_pretrained(tmp_path / "model")
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(text=json.dumps({"data": [{"embedding": said}]}))

    async def scenario() -> Any:
        app = web.Application()
        app.router.add_post("/v1/embeddings", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        book.tell("judge", Address(f"http://127.0.0.1:{runner.addresses[0][1]}", None, str(tmp_path / "model")))
        try:
            return await RewardModel("judge", scale=2.0)("2", None, {}, messages=QUESTION)
        finally:
            await runner.cleanup()

    found = asyncio.run(scenario())
    assert isinstance(found, Failed) if score is Failed else found == score
    (body,) = asked
    assert body["model"] == "judge"
    assert tokenizer.decode(body["input"]) == "1+1=<|im_start|>2<|im_end|>"
