"""What an agent is: it has a loop of its own, and knows the policy by a URL and a key."""

from __future__ import annotations

from typing import Protocol

from rlscale.data.sample import Prompt


class Agent(Protocol):
    """Works on one prompt. A class by `agent._target_`; every sample gets an instance of its own.

    The constructor gets `agent.arguments`. Many agents share the event loop of the rollout: what computes or waits
    without `await` belongs in `asyncio.to_thread`, or into a program of its own (`agent.command`).
    """

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> float | None:
        """Do the task of a row of the data, and give its reward; None leaves that to `env`, by the last answer.

        `base_url` ends in /v1 and speaks OpenAI's chat completions and responses and Anthropic's messages; `key` is the
        API key. Every call is a turn of the policy that is trained on. Whatever model, temperature or top_p a call
        names, the policy answers as the run samples. Raising is a failure of the agent: the sample is dropped, counted
        and made anew. A task that the policy failed at is not a failure; give it its reward. Chance is drawn from
        `seed`.
        """
        ...
