"""What the contract of an engine launcher finds, where the engines are simulated ones in processes of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlscale.run.contracts import check_launcher
from rlscale.serve.engine_launcher import EngineSite
from rlscale.serve.http import call
from rlscale.serve.process import ServerProcess
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.simulator.simulated_launcher import SimulatedLauncher
from rlscale.trainer.hook_contract.findings import Status, failed
from rlscale.weights.transports.shared_memory import SharedMemoryTransport


def test_an_engine_of_ones_own_that_is_started_twice_keeps_the_contract() -> None:
    findings = check_launcher(SimulatedLauncher, SimulatedLauncher)
    assert [str(finding) for finding in findings if finding.status is not Status.passed] == []
    checks = {finding.check for finding in findings}
    assert checks >= {"strangers", "start", "key", "generate", "seed", "weights", "version", "log", "stop"}


class Careless(SimulatedLauncher):
    """Asks nobody for the key, takes anybody for its engine, and has not ended it when it says so."""

    def __init__(self, spec: ServerSpec, site: EngineSite) -> None:
        super().__init__(spec, replace(site, api_key=""))

    def launch(self, port: int) -> ServerProcess:
        process = super().launch(port)
        stop = process.stop
        stopped: list[bool] = []

        def late(timeout: float = 15.0) -> None:
            if stopped:
                stop(timeout)
            stopped.append(True)

        process.stop = late  # type: ignore[method-assign]  # what it breaks
        return process

    def healthy(self, url: str) -> bool:
        call(url, "/health", None, timeout=2.0)
        return True


class NotAServer(SimulatedLauncher):
    def __init__(self, spec: ServerSpec, site: EngineSite) -> None:
        super().__init__(spec, site)
        self._kind = {"prt": 1}


class NoProcess(SimulatedLauncher):
    def launch(self, port: int) -> Any:
        return port


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (
            Careless,
            {
                "strangers": "a stranger is",
                "key": "it answers one with another key",
                "stop": "still there",
            },
        ),
        (NotAServer, {"start": "it ended with exit code 1: TypeError: serve() got an unexpected keyword argument"}),
        (NoProcess, {"process": "int"}),
    ],
)
def test_a_broken_launcher_fails_by_the_name_of_what_it_breaks(
    kind: type[SimulatedLauncher], found: dict[str, str]
) -> None:
    said = {finding.check: finding.found for finding in failed(check_launcher(kind, kind, seconds=60.0))}
    assert said.keys() == found.keys()
    assert all(text in said[check] for check, text in found.items()), said


def test_a_class_without_the_methods_is_not_started() -> None:
    findings = check_launcher(SharedMemoryTransport, SharedMemoryTransport)  # type: ignore[arg-type]  # what it breaks
    assert {finding.check for finding in failed(findings)} == {"launch", "healthy"}
