"""The contract of an engine launcher: an engine of a tiny model is started, asked, given weights and ended, twice."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlscale.config.composition.compose import compose
from rlscale.config.schema.cluster_config import Device
from rlscale.platform.ports import free_port, is_free
from rlscale.run.contracts.engine_checks import check_engine
from rlscale.run.contracts.methods import check_methods
from rlscale.run.contracts.recorded_engine import RecordedEngine
from rlscale.run.contracts.tiny_model import TINY
from rlscale.run.model_folders import ModelFolders
from rlscale.serve.addresses import url_of
from rlscale.serve.engine_launcher import EngineLauncher, EngineSite
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.http import CallError
from rlscale.serve.process import ServerProcess
from rlscale.serve.server_spec import ServerSpec
from rlscale.trainer.hook_contract.findings import Finding, HookStoppedError, Report, failed, reported

_KEY = "the key of the contract"
_HOST = "127.0.0.1"
_SECONDS = 300.0


def check_launcher(
    target: type[Any],
    build: Callable[[ServerSpec, EngineSite], EngineLauncher],
    fork_server: str | None = None,
    seconds: float = _SECONDS,
) -> list[Finding]:
    """One finding per check of a launcher: its methods, then the life of an engine on the CPU, started twice.

    `target` is the class; `build` makes a launcher. `fork_server`: address of one that imports SGLang already. An
    engine may take `seconds` until it is healthy.
    """
    findings = check_methods(target, EngineLauncher)
    if failed(findings):
        return findings
    with reported() as report, tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = ModelFolders.of(compose(overrides=[*TINY, f"run.scratch={folder}/scratch"]), place).policy
        processes = EngineProcesses(place / "tmp", _KEY, fork_server)
        site = EngineSite(place / "logs" / "engine.log", place / "scratch", _KEY, processes)
        spec = ServerSpec("engine", str(model), Device.cpu, start_timeout_s=seconds)
        try:
            launcher = report.call("new", build, spec, site)
            _nobody(report, launcher)
            for life in ("the first", "the second"):
                _live(report, launcher, spec, site, life)
        finally:
            processes.stop()
    return [*findings, *report.findings]


def _nobody(report: Report, launcher: EngineLauncher) -> None:
    """Before anything is started nothing is healthy: neither a port without a server nor an engine of somebody else."""
    with RecordedEngine(_KEY, set()) as stranger:
        for what, url in (("nobody", url_of(_HOST, free_port(_HOST))), ("a stranger", stranger.url)):
            found = _healthy(report, launcher, url)
            said = f"{what} is{'' if found else ' not'}"
            report.add("strangers", "nobody but the engine that was started is healthy", not found, said)


def _live(report: Report, launcher: EngineLauncher, spec: ServerSpec, site: EngineSite, life: str) -> None:
    port = free_port(_HOST)
    began = time.monotonic()
    process = report.call("launch", launcher.launch, port)
    right = isinstance(process, ServerProcess)
    report.add("process", "a rlscale.serve.process.ServerProcess", right, type(process).__name__)
    report.stop_if_failed("process")
    try:
        url = url_of(_HOST, port)
        _wait(report, launcher, process, url, spec.start_timeout_s)
        report.add("start", "it gets healthy", True, f"{life} engine within {time.monotonic() - began:.1f} s")
        check_engine(report, url, _KEY, spec.model_path)
        written = site.log.is_file()
        report.add("log", "what it prints goes to the file of its site", written, "it does" if written else "no file")
    finally:
        report.call("stop", process.stop)
    ended = process.exit_code() is not None and is_free(_HOST, port)
    report.add("stop", "the process and its port are gone when stop returns", ended, "gone" if ended else "still there")
    report.call("stop again", process.stop)


def _wait(report: Report, launcher: EngineLauncher, process: ServerProcess, url: str, seconds: float) -> None:
    """Until the engine is healthy; ends the test where it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not _healthy(report, launcher, url):
        code = process.exit_code()
        if code is not None or time.monotonic() > deadline:
            said = f"not healthy within {seconds:g} s" if code is None else f"it ended with exit code {code}"
            tail = process.last_exception() or process.log_tail(1)
            report.add("start", "it gets healthy", False, f"{said}{f': {tail}' if tail else ''}")
            raise HookStoppedError
        time.sleep(0.05)


def _healthy(report: Report, launcher: EngineLauncher, url: str) -> bool:
    """What the launcher says of a URL; CallError counts as no."""

    def asked(url: str) -> bool:
        with contextlib.suppress(CallError):
            return launcher.healthy(url)
        return False

    return report.call("healthy", asked, url)
