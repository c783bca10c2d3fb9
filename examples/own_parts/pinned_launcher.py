"""An engine launcher that keeps its engines to some of the cores, so that the others stay with the trainer."""

from __future__ import annotations

import os

from rlscale.serve.engine_launcher import EngineSite, SglangLauncher
from rlscale.serve.process import ServerProcess
from rlscale.serve.server_spec import ServerSpec


class PinnedLauncher(SglangLauncher):
    """SGLang on the cores `cores`; processes that an engine starts later inherit them."""

    def __init__(self, spec: ServerSpec, site: EngineSite, cores: list[int]) -> None:
        super().__init__(spec, site)
        self._cores = cores

    def launch(self, port: int) -> ServerProcess:
        """Start the engine, and pin it before it has begun its work."""
        process = super().launch(port)
        if process.pid is not None:
            os.sched_setaffinity(process.pid, self._cores)
        return process
