"""Has the conversations that it is told of by lines of JSON, and tells by a line what it heard.

A line has `scenario` (a function of this file), `protocol`, `base_url`, `key`, and what client and conversation are
made with. Questions consist of what the smallest tokenizer of the tests has.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic
import openai
from protocols import PROTOCOLS, Conversation

LEFT = "0-0=?"
"""The question whose answer is not waited for."""
GONE = (openai.APITimeoutError, anthropic.APITimeoutError)


async def linear(talk: Conversation) -> None:
    """A conversation that grows."""
    for number in range(4):
        await talk.ask(f"{number}+0=?")


async def edited(talk: Conversation) -> None:
    """The first question is asked otherwise, and what followed goes on behind it."""
    await talk.ask("0+0=?")
    await talk.ask("1+0=?")
    await talk.branch([{"role": "user", "content": "00+0=?"}, *talk.said[1:]]).ask("2+0=?")


async def compacted(talk: Conversation) -> None:
    """A summary takes the place of the history; then the history goes on, too."""
    await talk.ask("0+0=?")
    await talk.ask("1+0=?")
    await talk.branch([{"role": "user", "content": "0+1=?"}]).ask("2+0=?")
    await talk.ask("3+0=?")


async def parallel(talk: Conversation) -> None:
    """Four sub-agents at once, three questions each."""

    async def sub_agent(name: int) -> None:
        own = talk.branch([])
        for number in range(3):
            await own.ask(f"{name}*{number}=?")

    await asyncio.gather(*map(sub_agent, range(4)))


async def calling(talk: Conversation) -> None:
    """A tool is called, and its result is answered."""
    await talk.ask("1 + 2?")
    await talk.told("3")


async def once(talk: Conversation) -> None:
    """One question. What the client does about a late answer is up to its settings."""
    await talk.ask("0+0=?")


async def leaving(talk: Conversation) -> None:
    """The client gives up a question, and asks another one."""
    try:
        await talk.ask(LEFT)
    except GONE:
        talk.client = talk.client.with_options(timeout=60)
        await talk.branch([]).ask("1+0=?")


async def have(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a line; what was heard."""
    protocol = PROTOCOLS[told["protocol"]]
    url = told["base_url"].removesuffix("/v1") if told["protocol"] == "messages" else told["base_url"]
    async with protocol.maker(base_url=url, api_key=told["key"], **told["client"]) as client:
        talk = protocol(client, **told["made_with"])
        await globals()[told["scenario"]](talk)
        return talk.heard


def main() -> None:
    """Until there are no more lines."""
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"heard": asyncio.run(have(json.loads(line)))}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
