"""An agent that is a program: started for each sample, told of the endpoint by its environment variables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from typing import Any

from rlscale.data.prompts.messages import as_plain
from rlscale.data.sample import Prompt

_SHOWN = 500
"""Characters of a program's last words that an error quotes."""


class CommandFailed(Exception):
    """A program that did not end as it should."""


class CommandAgent:
    """Runs a command without a shell.

    The program finds the endpoint where the clients of both protocols look for it by themselves (OPENAI_BASE_URL,
    OPENAI_API_KEY, ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY), and its task as one line of JSON on standard input: `text`,
    `messages`, `label`, `info`, `seed`. If the last line that it prints is a JSON object with `reward`, that is the
    reward. It has to end with status 0. It ends with all that it has started, also when it takes too long.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)

    async def run(self, prompt: Prompt, base_url: str, key: str, seed: int) -> float | None:
        """See Agent. CommandFailed for another status than 0."""
        anthropic_url = base_url.removesuffix("/v1")  # its client writes /v1 itself
        variables = {
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": key,
            "ANTHROPIC_BASE_URL": anthropic_url,
            "ANTHROPIC_API_KEY": key,
        }
        process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        try:
            out, err = await process.communicate((json.dumps(_task(prompt, seed)) + "\n").encode())
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing of its group is left
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode != 0:
            said = err.decode(errors="replace").strip()[-_SHOWN:]
            raise CommandFailed(f"{self._words[0]} ended with status {process.returncode}: {said}")
        return _reward(out.decode(errors="replace"))


def _task(prompt: Prompt, seed: int) -> dict[str, Any]:
    task = {"text": prompt.text, "messages": list(prompt.messages), "label": prompt.label, "info": prompt.info}
    return {**{name: as_plain(value) for name, value in task.items()}, "seed": seed}


def _reward(printed: str) -> float | None:
    """The reward in the last line; None if there is none."""
    lines = printed.strip().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):  # it may be what the policy said
        return None
    return last["reward"] if isinstance(last, dict) and "reward" in last else None
