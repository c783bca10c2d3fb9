"""Two machines on one: a trainer in one network namespace, an engine in another, and a network that is cut.

    python benchmarks/two_machines.py [--cut 10] [--then-for-ever] [-- key=value ...]      (root, and iproute2)

A third namespace forwards between the two, which have addresses in different networks and no other way to each other.
Each is a node of one Ray. The engine is started on the second by a launcher that Ray places there; the run is on the
first, but for its rollout service, which Ray places on either, disaggregated, and sends weights by broadcast. Then the
third namespace forwards nothing: packets vanish, no connection is told. First for some seconds in an iteration and in a
sync, after which the run must go on by itself; then for good, after which it must end in a line. Prints what happened,
and when.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from machine import describe_machine, load_average

TRAINER, MIDDLE, ENGINE = (f"rls{os.getpid()}{name}" for name in ("t", "m", "e"))
"""Names of the namespaces."""
NETWORKS = {TRAINER: "10.77.1", ENGINE: "10.77.2"}
"""The machine is .2 of its network and the middle .1."""
RAY_PORT = 6390
RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "eval.enabled=false", "warm_start=null"),
    *("checkpoint.every=2", "run.progress=plain", "run.output=run", "cluster.placement=disaggregated"),
    *("weights/transport=broadcast", "cluster.call_timeout_s=300", "weights.timeout_s=60", "rollout.request_retries=3"),
    *("rollout.request_timeout_s=60", "run.iterations=30"),
)
LIMIT_S = 900.0


def address(machine: str) -> str:
    """Of a machine."""
    return f"{NETWORKS[machine]}.2"


def ip(*words: str) -> None:
    """Call the tool. CalledProcessError where it refuses."""
    subprocess.run(["ip", *words], check=True)


def within(machine: str, *words: str) -> list[str]:
    """The command that runs there."""
    return ["ip", "netns", "exec", machine, *words]


@contextmanager
def network() -> Iterator[None]:
    """The three namespaces and their links."""
    try:
        for machine in (TRAINER, MIDDLE, ENGINE):
            ip("netns", "add", machine)
            ip("-n", machine, "link", "set", "lo", "up")
        for number, (machine, prefix) in enumerate(NETWORKS.items()):
            ours, middle = "eth0", f"to{number}"
            ip("-n", MIDDLE, "link", "add", middle, "type", "veth", "peer", "name", ours, "netns", machine)
            ip("-n", MIDDLE, "addr", "add", f"{prefix}.1/24", "dev", middle)
            ip("-n", machine, "addr", "add", f"{prefix}.2/24", "dev", ours)
            ip("-n", MIDDLE, "link", "set", middle, "up")
            ip("-n", machine, "link", "set", ours, "up")
            ip("-n", machine, "route", "add", "default", "via", f"{prefix}.1")
        forward(True)
        yield
    finally:
        for machine in (TRAINER, MIDDLE, ENGINE):
            subprocess.run(["ip", "netns", "del", machine], check=False, stderr=subprocess.DEVNULL)


def forward(does: bool) -> None:
    """Whether packets get from one machine to the other."""
    subprocess.run(within(MIDDLE, "sysctl", "-qw", f"net.ipv4.ip_forward={int(does)}"), check=True)


@contextmanager
def started(command: Sequence[str], log: Path, environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen]:
    """A command in the background, with all that it starts; ended with the block."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def last_lines(log: Path) -> list[str]:
    """Of a log."""
    return log.read_text().splitlines()[-15:]


def await_text(log: Path, text: str, process: subprocess.Popen, limit_s: float = 180.0) -> None:
    """Return once a log holds the text. RuntimeError with its end if the process ends, or the time is up, before."""
    deadline = time.monotonic() + limit_s
    while text not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.name}: no {text!r}\n" + "\n".join(last_lines(log)))
        time.sleep(0.2)


def serve(folder: Path, key_file: Path) -> None:
    """Start an engine on the other machine by a launcher that Ray places there, say where, and stay."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from rlscale.config.composition.compose import compose
    from rlscale.config.schema.cluster_config import Device
    from rlscale.data.folders.model_folder import ensure_model_folder
    from rlscale.run.processes.actors import LauncherActor
    from rlscale.serve.server_spec import ServerSpec

    config = compose(None, list(RUN))
    model = ensure_model_folder(config.model, folder / "scratch")
    ray.init(address=f"{address(TRAINER)}:{RAY_PORT}", log_to_driver=False)
    place = next(node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == address(ENGINE))
    options = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(place, soft=False)}
    own = [str(folder / "logs"), str(folder / "scratch"), key_file.read_text().strip(), address(ENGINE), None]
    actor: Any = ray.remote(LauncherActor)
    launcher = actor.options(**options).remote("launcher.log", *own, config.rollout.engine)
    spec = ServerSpec("engine", str(model), Device.cpu, host=address(ENGINE))
    print(f"serves {ray.get(launcher.call.remote('start_engine', spec))} with {model}", flush=True)
    while True:
        time.sleep(3600)


class Watched:
    """The run: what it says, and the iterations that it has finished."""

    def __init__(self, folder: Path, log: Path, process: subprocess.Popen) -> None:
        self.folder, self.log, self.process = folder, log, process
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"{time.monotonic() - self.began:6.1f} s  iteration {self.iterations():2d}  {text}", flush=True)

    def iterations(self) -> int:
        """How many are finished."""
        with suppress(OSError):
            return len((self.folder / "run" / "metrics.jsonl").read_text().splitlines())
        return 0

    def await_iterations(self, count: int) -> bool:
        """Return once so many are finished; False if the run has ended, or the time is up, before."""
        deadline = time.monotonic() + LIMIT_S
        while self.iterations() < count and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.iterations() >= count

    def await_span(self, after: str) -> None:
        """Return when the driver has just ended a span of that name. RuntimeError if none does within a minute."""
        path = self.folder / "run" / "timeline.jsonl"
        seen = path.read_text().count(f'"{after}"')
        deadline = time.monotonic() + 60.0
        while path.read_text().count(f'"{after}"') == seen:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{path.name}: no further {after!r}\n" + "\n".join(last_lines(self.log)))
            time.sleep(0.01)


def play(run: Watched, cut_s: float, for_ever: bool) -> None:
    """Cut the network, and say what becomes of the run."""
    if not run.await_iterations(3):
        run.say("did not come to its third iteration")
        return
    for phase, after in (("generate", "sync"), ("sync", "train")):
        run.await_span(after)
        before = run.iterations()
        run.say(f"the network is cut for {cut_s:g} s in {phase}")
        at = time.monotonic()
        forward(False)
        time.sleep(cut_s)
        forward(True)
        run.say("the network is back")
        if not run.await_iterations(before + 2):
            run.say("the run did not go on")
            return
        run.say(f"two iterations more, {time.monotonic() - at:.1f} s after the cut")
    if for_ever:
        run.say("the network is cut for good")
        at = time.monotonic()
        forward(False)
        with suppress(subprocess.TimeoutExpired):
            run.process.wait(LIMIT_S)
        code = run.process.poll()
        run.say(f"the run has ended by {code}, {time.monotonic() - at:.1f} s after the cut")
    else:
        run.process.wait(LIMIT_S)
        run.say(f"the run has ended by {run.process.returncode}")


def main() -> None:
    """Print what happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", type=float, default=10.0)
    parser.add_argument("--then-for-ever", action="store_true")
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="folder that stays, for the logs")
    parser.add_argument("words", nargs="*", help="further words of the run's command line")
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    with tempfile.TemporaryDirectory(dir="/tmp") as place, network():
        folder = (options.keep or Path(place)).resolve()  # commands run in it
        folder.mkdir(parents=True, exist_ok=True)
        play_in(folder, Path(place) / "r", options)


def play_in(folder: Path, rays: Path, options: argparse.Namespace) -> None:
    """Start everything in the folder, and play."""
    token, key = folder / "token", folder / "key"
    for file in (token, key):
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32))
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": root}
    environment |= {"RAY_worker_niceness": "0", "GLOO_SOCKET_IFNAME": "eth0"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=0", "--disable-usage-stats"]
    ray += [f"--object-store-memory={1 << 28}", "--include-log-monitor=false"]
    head = [*ray, "--head", f"--node-ip-address={address(TRAINER)}", f"--port={RAY_PORT}", "--include-dashboard=false"]
    other = [*ray, f"--node-ip-address={address(ENGINE)}", f"--address={address(TRAINER)}:{RAY_PORT}"]
    logs = {name: folder / f"{name}.log" for name in ("head", "other", "serve", "run")}
    serving = [sys.executable, __file__, "--serve", str(folder), str(key)]
    with (
        started(within(TRAINER, *head, f"--temp-dir={rays}"), logs["head"], environment, folder) as first,
    ):
        await_text(logs["head"], "Ray runtime started", first)
        # A fork server of the first machine can be reached by its socket's file, and would fork a worker of the second
        # into the first one's network: it refuses one whose environment is another.
        elsewhere = {**environment, "KMP_WARNINGS": "off"}
        with started(within(ENGINE, *other), logs["other"], elsewhere, folder) as second:
            await_text(logs["other"], "Ray runtime started", second)
            with started(within(TRAINER, *serving), logs["serve"], environment, folder) as server:
                await_text(logs["serve"], "serves http", server, 400.0)
                said = logs["serve"].read_text().split("serves ")[1].split()
                words = [f"cluster.ray_address={address(TRAINER)}:{RAY_PORT}", f"cluster.host={address(TRAINER)}"]
                words += [f"rollout.engine_urls=[{said[0]}]", f"rollout.engine_key_file={key}"]
                command = [sys.executable, "-m", "rlscale", *RUN, *words, *options.words]
                with started(within(TRAINER, *command), logs["run"], environment, folder) as process:
                    play(Watched(folder, logs["run"], process), options.cut, options.then_for_ever)
                    print("\nthe last lines of the run:\n" + "\n".join(logs["run"].read_text().splitlines()[-12:]))
                    print(json.dumps(ledger(folder / "run" / "summary.json")))


def ledger(file: Path) -> dict[str, float]:
    """Where the prompts and tokens of a finished run went; empty without a summary."""
    with suppress(OSError):
        return {
            name: value
            for name, value in json.loads(file.read_text()).items()
            if name.startswith(("prompts", "tokens"))
        }
    return {}


if __name__ == "__main__":
    main()
