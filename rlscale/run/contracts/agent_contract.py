"""The contract test of an agent of one's own: it talks to a real endpoint behind which a scripted policy answers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.prompts.messages import read_messages
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.score import score_of
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.endpoint.agent import Agent
from rlscale.rollout.endpoint.agent_session import Limits, Policy, Session
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.rollout.endpoint.output_parser import EngineParser
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.trainer.hook_contract.findings import Finding, Report, Status, reported

ANSWERS = ("42", "", "no number", '{"name": "add", "arguments": {"a": 6', "7 " * 500)
"""What the scripted policy says, one answer after another, beginning with each of them once."""
TURNS, SECONDS, ROOM = 16, 30.0, 100_000
_CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


class _Scripted:
    """A connection to an engine that gives `ANSWERS`, from number `first` on."""

    def __init__(self, encoder: PromptEncoder, first: int) -> None:
        self._encoder, self._next = encoder, first

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """See rlscale.rollout.engines.connection.Connection. Requests of one moment come as one, with a list."""
        asked = body["sampling_params"]
        return 200, [self._answer(one) for one in asked] if isinstance(asked, list) else self._answer(asked)

    def _answer(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        said = self._encoder.encode_response(ANSWERS[self._next % len(ANSWERS)]).tolist()
        self._next += 1
        most = sampling["max_new_tokens"]
        tokens, reason = said[:most], "stop" if len(said) <= most else "length"
        spans = [{"version": "0", "start": 0, "end": len(tokens)}]
        entries = [[-1.0, token, None] for token in tokens]
        meta = {"output_token_logprobs": entries, "finish_reason": {"type": reason}, "weight_versions": spans}
        return {"meta_info": meta}

    async def get(self, url: str) -> tuple[int, Any]:
        """See rlscale.rollout.engines.connection.Connection."""
        return 404, ""

    async def close(self) -> None:
        """See rlscale.rollout.engines.connection.Connection."""


def check_agent(make: Callable[[], Agent], row: Mapping[str, Any] | None = None) -> list[Finding]:
    """Let agents work on a row of the data: `prompt`, `label`, and other keys as `info`. One finding per check."""
    with tempfile.TemporaryDirectory() as folder:
        character_tokenizer(_CHARACTERS, ROOM).save_pretrained(folder)
        encoder = PromptEncoder(folder, DataConfig(), ROOM)
    with reported() as report:
        asyncio.run(_check(make, encoder, dict(row or {}), report))
    return report.findings


async def _check(make: Callable[[], Agent], encoder: PromptEncoder, row: dict[str, Any], report: Report) -> None:
    text = row.pop("prompt", "What is 6 times 7?")
    said = text if isinstance(text, str) else read_messages(text)
    prompt = encoder.encode(RawPrompt(0, "0", said, row.pop("label", "42"), row))
    assert prompt is not None
    server = EndpointServer()
    await server.start()
    try:
        for first in range(len(ANSWERS)):
            await _one(make(), server, encoder, prompt, first, report)
    finally:
        await server.close()


async def _one(
    agent: Agent, server: EndpointServer, encoder: PromptEncoder, prompt: Prompt, first: int, report: Report
) -> None:
    client = EngineClient("http://engine", connect=lambda *settings: _Scripted(encoder, first))
    sampling = SamplingParams(max_new_tokens=ROOM, stop_token_ids=(encoder.end_of_turn.token,))
    policy = Policy(Continued(client, Cuts()), encoder, sampling, EngineParser(client, None, None), ROOM)
    session = Session(policy, Limits(TURNS), lambda turn: 1, Attempt(lambda: 0), nullcontext())
    where = f"where the policy begins with {ANSWERS[first][:20]!r}"
    given: Any = None
    try:
        async with asyncio.timeout(SECONDS), server.open(session) as visit:
            given = await agent.run(prompt, visit.base_url, visit.key, 7)
        report.add("run", "no exception, whatever the policy says", True, "it returns")
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        allowed = session.over_budget
        said = f"it goes on after {TURNS} answers" if allowed else f"{text} {where}; it drops the sample"
        report.add("run", "no exception, whatever the policy says", allowed, said, otherwise=Status.warned)
        return
    turns = len(session.tree.turns)
    report.add("calls", "at least one call that is answered", turns > 0, f"{turns} {where}")
    try:
        report.add("reward", "a finite number, or None", given is None or score_of(given) is not None, "it is")
    except ValueError as error:
        report.add("reward", "a finite number, or None", False, f"{error} {where}")
    if turns:
        segments = len(list(session.tree.sequences()))
        text = f"{segments} of {turns} turns {where}"
        report.add("segments", "one training sequence", segments == 1, text, otherwise=Status.warned)
