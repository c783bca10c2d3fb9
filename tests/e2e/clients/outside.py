"""A process of the other Python that has conversations by the published clients."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from rlscale.rollout.endpoint.endpoint_server import Visit

PROGRAM = Path(__file__).with_name("conversations.py")


class Outside:
    """Started once, since importing the clients takes seconds. A context manager that ends it."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def have(
        self,
        scenario: str,
        protocol: str,
        visit: Visit,
        client: dict[str, Any] | None = None,
        **made_with: Any,
    ) -> list[dict[str, Any]]:
        """What the client heard in that conversation of conversations.py. Blocks; AssertionError if it failed.

        `client`: arguments of the client, such as its time-out; `made_with`: those of the conversation.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        told = {"scenario": scenario, "protocol": protocol, "base_url": visit.base_url, "key": visit.key}
        self.process.stdin.write(json.dumps({**told, "client": client or {}, "made_with": made_with}) + "\n")
        answer = json.loads(self.process.stdout.readline() or '{"failed": "the process has ended"}')
        assert "failed" not in answer, answer["failed"]
        heard: list[dict[str, Any]] = answer["heard"]
        return heard
