"""Simulated engines in the place of a run's SGLang servers (`rollout/engine=simulated`), to debug all that is around.

They start at once and say what no model says: nothing is learned, and the log-probs of trainer and engines have nothing
to do with each other.
"""

from __future__ import annotations

import json
import sys

from rlscale.config.errors import UserError
from rlscale.serve.engine_launcher import EngineSite
from rlscale.serve.http import call, told
from rlscale.serve.process import GuardedProcess, ServerProcess
from rlscale.serve.server_spec import ServerSpec, base_environment
from rlscale.serve.simulator import simulated_main


class SimulatedLauncher:
    """An EngineLauncher. Responses are log-normally long, around `median` tokens; a step takes `decode_s` seconds for
    one request, and twice as long for 64.
    """

    def __init__(
        self, spec: ServerSpec, site: EngineSite, median: float = 16.0, decode_s: float = 0.001, slots: int = 256
    ) -> None:
        """UserError for a number that is not above 0."""
        for name, value in {"median": median, "decode_s": decode_s, "slots": slots}.items():
            if not value > 0:
                raise UserError(f"rollout.engine.{name}={value:g}: must be above 0")
        self._spec, self._site = spec, site
        self._kind = {"median": median, "decode_s": decode_s, "slots": slots}

    def launch(self, port: int) -> ServerProcess:
        """See EngineLauncher."""
        order = {**self._kind, "model": self._spec.model_path, "host": self._spec.host, "port": port}
        text = json.dumps({**order, "api_key": self._site.api_key})
        command = [sys.executable, "-m", simulated_main.__name__]
        return GuardedProcess(command, base_environment(), text, self._site.log, self._site.scratch / "tmp")

    def healthy(self, url: str) -> bool:
        """See EngineLauncher."""
        call(url, "/health", None, timeout=2.0)
        info = told(url, "/model_info", self._site.api_key, timeout=5.0)
        return bool(info.get("model_path") == self._spec.model_path)
