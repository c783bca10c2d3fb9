"""Blocking JSON calls to one server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from rlscale.config.errors import UserError
from rlscale.serve.http_deadline import NoRedirects, WithinTimeout

NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}), WithinTimeout, NoRedirects)
"""Engines are reached directly, whatever proxy the environment names for the outside world."""


class CallError(UserError):
    """A call that was not answered, or not with success; the message names server and call."""


class Unanswered(CallError):
    """Nobody answered: the connection was refused or broke, or the time was up."""


def call(
    url: str,
    path: str,
    api_key: str | None,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
) -> Any:
    """`send` with `body` encoded as JSON (POST), or without one (GET)."""
    data = None if body is None else json.dumps(body).encode()
    return send(url, path, api_key, data, method=method, headers=headers, timeout=timeout)


def told(
    url: str,
    path: str,
    api_key: str | None,
    body: Any = None,
    *,
    has: tuple[str, type] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
) -> dict[str, Any]:
    """The JSON object that `call` gives.

    CallError where it is anything else, or has not what it must have (`has`, a key and the type of its value): a
    stranger answered.
    """
    answer = call(url, path, api_key, body, headers=headers, timeout=timeout)
    if not isinstance(answer, dict):
        raise CallError(f"{url}{path}: the answer is no JSON object: {str(answer)[:80]!r}")
    if has is not None and not isinstance(answer.get(has[0]), has[1]):
        raise CallError(f"{url}{path}: the answer has no {has[0]}")
    return answer


def send(
    url: str,
    path: str,
    api_key: str | None,
    data: bytes | None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
) -> Any:
    """Send `data`, which is JSON, and return the answer, parsed where it is JSON.

    Raises CallError for a status of 400 and above, Unanswered on a refused connection and where no answer comes within
    `timeout` seconds.
    """
    sent = {"Content-Type": "application/json", **(headers or {})}
    if api_key:
        sent["Authorization"] = f"Bearer {api_key}"
    request = urllib.request.Request(url + path, data, sent, method=method or ("GET" if data is None else "POST"))
    try:
        try:
            with NO_PROXY.open(request, timeout=timeout) as response:
                text = response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace").strip()
            raise CallError(f"{url}{path}: status {error.code}: {detail[:500]}") from None
    except TimeoutError:
        raise Unanswered(f"{url}{path}: no answer within {timeout:g} s") from None
    except HTTPException as error:  # an answer cut off in the middle
        raise Unanswered(f"{url}{path}: broken answer ({error!r})") from None
    except OSError as error:  # URLError is one, and a connection that was reset
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise Unanswered(f"{url}{path}: no answer within {timeout:g} s") from None
        raise Unanswered(f"{url}{path}: {reason}") from None
    try:
        return json.loads(text)
    except ValueError:
        return text
