"""An agent: it asks a sum in both orders, each a call to a URL that it takes for a model's API."""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI

from rlscale.data.sample import Prompt


class BothOrders:
    """Half of the reward for each order of a sum that is answered rightly."""

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> float:
        """Ask `12+34=` and `34+12=` at the same time."""
        terms = str(prompt.messages[-1]["content"]).rstrip("=").split("+")
        questions = ["+".join(order) + "=" for order in (terms, reversed(terms))]
        async with AsyncOpenAI(base_url=base_url, api_key=key) as client:
            answers = await asyncio.gather(*(ask(client, question) for question in questions))
        return sum(answer == prompt.label for answer in answers) / len(answers)


async def ask(client: AsyncOpenAI, question: str) -> str:
    """The policy's answer."""
    answer = await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": question}])
    return (answer.choices[0].message.content or "").strip()
