"""A process that engines of several roles are forked from: it finds what they hand keys and values over with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlscale.serve import engine_main
from rlscale.serve.fork_server import ForkServer
from rlscale.serve.server_spec import fork_server_environment, read_at_import
from tests.extras.transfer_engine import transfer_engine


@pytest.fixture(scope="session")
def transfer_fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. Those who ask need not know where the package is: what it has imported is the same without."""
    found, scratch = transfer_engine(), tmp_path_factory.mktemp("transfer")
    usual = fork_server_environment(scratch)
    environment = {**usual, **found, "PYTHONPATH": f"{usual['PYTHONPATH']}:{found['PYTHONPATH']}"}
    server = ForkServer(engine_main.__name__, environment, read_at_import(usual), scratch)
    yield server.address
    server.stop()
