"""What is started as an engine: the protocol of the class that `rollout.engine._target_` names, and SGLang's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlscale.config.schema.engine_group_config import Role
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.http import call, told
from rlscale.serve.paired import ALONE
from rlscale.serve.process import ServerProcess
from rlscale.serve.server_spec import ServerSpec, server_environment, server_options


@dataclass(frozen=True)
class EngineSite:
    """Where an engine is started."""

    log: Path
    """The file that takes everything that its processes print."""
    scratch: Path
    """Folder for every other file of it."""
    api_key: str
    """The key that the engine must ask for."""
    processes: EngineProcesses
    """Starts SGLang's processes, so that they end with the process that holds this."""


class EngineLauncher(Protocol):
    """Starts one engine, perhaps several times: it is built once as `Class(spec, site)`, with its node's arguments.

    What it starts must speak SGLang's protocol: `/generate`, `/health`, and the calls of rlscale.serve.receiver.
    """

    def launch(self, port: int) -> ServerProcess:
        """Start the engine on a port, without waiting until it answers."""

    def healthy(self, url: str) -> bool:
        """Whether the engine that was started, and no stranger on its port, generates. CallError counts as no."""


class SglangLauncher:
    """An SGLang server, forked or as a new process."""

    def __init__(self, spec: ServerSpec, site: EngineSite) -> None:
        """UserError for an option that rlscale sets itself."""
        server_options(spec, 0)  # a bad option is an error of the configuration, not of a process
        self._spec, self._site = spec, site
        self._environment = server_environment(spec, site.scratch)

    def launch(self, port: int) -> ServerProcess:
        """See EngineLauncher."""
        return self._site.processes.start(self._spec, port, self._environment, self._site.log)

    def healthy(self, url: str) -> bool:
        """Whether the engine of the spec answers at `url` and has generated a token, or scored one."""
        key, spec = self._site.api_key, self._spec
        call(url, "/health", None, timeout=2.0)
        info = told(url, "/model_info", key, timeout=5.0)
        if info.get("model_path") != spec.model_path:
            return False
        if not info.get("is_generation", True):  # a reward model
            works = "embedding" in told(url, "/encode", key, {"input_ids": [0]}, timeout=spec.start_timeout_s)
        else:
            sampling = {"max_new_tokens": 1, "temperature": 0.0, "sampling_seed": 0}
            body = {"input_ids": [0], "sampling_params": sampling, **(ALONE if spec.role is not Role.regular else {})}
            works = "output_ids" in told(url, "/generate", key, body, timeout=spec.start_timeout_s)
        if not works:
            return False
        # What lives now lives for ever: keep Python's garbage collector from walking it again and again (a third of
        # the time of many short requests).
        call(url, "/freeze_gc", key, {}, timeout=60.0)
        return True
