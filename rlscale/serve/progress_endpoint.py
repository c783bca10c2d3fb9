"""A call of an engine's server that SGLang lacks: has any request that was there at the last call got on since?

It is answered by the process that hands answers out. So it tells of the whole way that a token takes, scheduler and
detokenizer, while `/server_info` is answered by a scheduler that may generate for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATH = "/progress"


class Moves:
    """Counts the looks at which something had moved."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self.count = 0

    def look(self, tokens: Mapping[str, int]) -> int:
        """`tokens`: how many each request has got that is there now, by its name. A new request is no move."""
        self.count += any(tokens.get(name, -1) != had for name, had in self._before.items())
        self._before = dict(tokens)
        return self.count


def add_to(server: Any) -> None:
    """Add the call to SGLang's module of its HTTP server."""
    moves = Moves()

    async def progress() -> Any:
        manager = server._global_state.tokenizer_manager
        tokens = {name: len(state.output_ids) for name, state in manager.rid_to_state.items()}
        told = {"requests": len(tokens), "moves": moves.look(tokens), "paused": bool(manager.is_pause)}
        return server.ORJSONResponse(told)

    server.app.get(PATH)(progress)
