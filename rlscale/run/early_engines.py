"""Engines on the CPU begin with the command: SGLang is imported while the driver still looks at the configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlscale.config.needs import Needs
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.server import fork_server_environment


@contextmanager
def early_fork_server(config: Config) -> Iterator[str | None]:
    """The address of a fork server for the run and its stages, which ends with the block; None where none is of use.

    It belongs to this process and is reached by every launcher on this machine, where all CPU engines are.
    """
    starts_engines = Needs.of(config).engines and not config.rollout.engine_urls
    if config.cluster.device is not Device.cpu or not starts_engines or sys.platform != "linux":
        yield None
        return
    scratch = Path(config.run.scratch).resolve()
    server = start_fork_server(fork_server_environment(scratch), scratch)
    try:
        yield server.address
    finally:
        server.stop()
