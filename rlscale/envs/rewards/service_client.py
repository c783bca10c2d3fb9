"""Asking a service over HTTP on behalf of rewards: with retries, a deadline, and failures that say what was wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from rlscale.config.errors import UserError
from rlscale.envs.reward import RewardFailed

_LONGEST_WAIT_S = 10.0
_SHOWN = 200


class ServiceClient:
    """Posts JSON to one address and gives the JSON that comes back.

    A connection that fails, HTTP 408, 429 and 5xx are tried again, `retries` times, after waits that double from
    `wait_s`. `key_file`: a file with the key that is sent as a bearer token; it is read anew with the first request.
    """

    def __init__(
        self, url: str, *, timeout_s: float, retries: int, key_file: str | None = None, wait_s: float = 0.5
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"url={url}: must begin with http:// or https://")
        for name, value in (("timeout_s", timeout_s), ("wait_s", wait_s)):
            if not value > 0:
                raise UserError(f"{name}={value}: must be above 0 seconds")
        if retries < 0:
            raise UserError(f"retries={retries}: must be at least 0")
        if key_file is not None and not Path(key_file).expanduser().is_file():
            raise UserError(f"key_file={key_file}: there is no such file")
        self._url, self._timeout_s, self._retries, self._wait_s = url, timeout_s, retries, wait_s
        self._key_file = key_file

    async def post(self, body: Any) -> Any:
        """What the service answers. RewardFailed with the last reason once no try is left."""
        reason, wait_s = "", self._wait_s
        headers = {}
        if self._key_file is not None:
            key = await asyncio.to_thread(Path(self._key_file).expanduser().read_text)
            headers["Authorization"] = f"Bearer {key.strip()}"
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
            try:
                timeout = aiohttp.ClientTimeout(total=self._timeout_s)
                # A session per request: requests are few and long, and none outlives its event loop.
                async with (
                    aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                    session.post(self._url, json=body) as answer,
                ):
                    if answer.status == 200:
                        return await answer.json(content_type=None)
                    text = " ".join((await answer.text(errors="replace")).split())[:_SHOWN]
                    reason = f"HTTP {answer.status}{': ' if text else ''}{text}"
                    if answer.status not in (408, 429) and answer.status < 500:
                        break
            except TimeoutError:
                reason = f"no answer within {self._timeout_s:g} s"
            except (aiohttp.ClientError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"[:_SHOWN]
        raise RewardFailed(f"{self._url}: {reason}")
