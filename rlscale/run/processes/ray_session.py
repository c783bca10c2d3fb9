"""Ray for the length of one command: started here, or joined where a cluster runs already."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import ray
from ray._private import ray_constants, worker

from rlscale.config.derived.object_store import given_store_bytes
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.platform.ownership import make_own
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.ray_waker import RayWaker
from rlscale.run.processes.raylet_watch import RayletWatch
from rlscale.run.processes.reaper_process import ReaperProcess, when_started
from rlscale.run.processes.watched import below
from rlscale.serve.pulse import families_of

# Ray's sockets live under <temp>/session_<date>_<pid>/sockets/plasma_store; a Unix socket path holds 107 bytes.
_LONGEST_TEMP = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
_RAYS = "r"
"""The folder that is Ray's own, within the session's."""
_CLUSTERS = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""Ray's variable for whether a Ray may have several machines. Without that its node is 127.0.0.1, and its processes
listen there; with it they listen on every interface, whatever address the node is given."""
_TOO_SLOW = "timed out during startup"
"""What Ray (2.60) says, as a bare Exception, where its processes did not come up in the time that it gives them."""


class RaySession:
    """A context in which Ray is up. A local Ray ends with this process, however it ends."""

    def __init__(self, cluster: ClusterConfig, scratch: Path) -> None:
        self._cluster = cluster
        self._scratch = scratch
        self._temp: Path | None = None
        self._folder: Path | None = None
        self._descriptor: int | None = None
        self._reaper: ReaperProcess | None = None
        self._waker: RayWaker | None = None
        self._kept: tuple[str | None, bool] | None = None

    def __enter__(self) -> RaySession:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # a rank must not starve beside whatever else runs
        # Of a call that nobody waits for any more; the actor's own log has what it raised.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        # What Ray tells of each call fills its GCS, 66 MB in 2,500 iterations, for a dashboard that is not started.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
        if os.environ.get("RAY_AUTH_MODE", "token") != "token":
            raise UserError(
                f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}: without its token Ray runs what anybody sends who "
                "reaches it; unset the variable, here and where Ray is started"
            )
        if self._cluster.ray_address is not None:
            self._join(self._cluster.ray_address)
        else:
            self._start()
        return self

    def _join(self, address: str) -> None:
        with self._reaping(None, psutil.Process().children()) as reaper:
            try:
                ray.init(address=address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"cluster.ray_address={address}: no Ray cluster answers there ({error})") from error
            reaper.started([], watch_raylet().process)

    def _start(self) -> None:
        self._temp = self._temp_folder()
        # Ray asks every process of its cluster for a token; it belongs to this session, not to the user's home. Ray
        # makes its own folder open to everybody, so the token lies beside it, in one that is not.
        token = self._temp.parent / "auth_token"
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        self._keep_to_this_machine()
        others = frozenset(psutil.Process().children())  # of this command
        with self._reaping(self._folder, others) as reaper:
            try:
                ray.init(
                    num_cpus=0,  # actors ask for no cores; a higher number makes Ray start as many idle workers
                    include_dashboard=False,
                    _temp_dir=str(self._temp),
                    log_to_driver=False,
                    configure_logging=False,
                    object_store_memory=given_store_bytes(self._cluster),
                )
            except Exception as error:
                self._leave_this_machine()
                if _TOO_SLOW not in str(error):
                    raise
                raise UserError(
                    f"Ray did not start within its 30 s: the machine is too busy (load {os.getloadavg()[0]:.0f} on "
                    f"{os.cpu_count()} cores) or short of memory; try again when less runs beside"
                ) from error
            self._start_waker({*others, psutil.Process(reaper.pid)})
            processes = [child.pid for child in psutil.Process().children(recursive=True)]
            reaper.started(processes, watch_raylet().process)

    @contextlib.contextmanager
    def _reaping(self, folder: Path | None, others: Collection[psutil.Process]) -> Iterator[ReaperProcess]:
        """Start Ray in this block; where that fails, what it has started besides `others` is ended soon after."""
        self._reaper = reaper = ReaperProcess(folder)
        try:
            yield reaper
        except BaseException:
            started = [child for child in psutil.Process().children() if child not in others]
            reaper.leave(pid for family in families_of([one.pid for one in started]).values() for pid in family)
            raise

    def _keep_to_this_machine(self) -> None:
        """Have Ray listen on loopback alone: its processes by the variable, this one, which has read it, by what it
        became."""
        self._kept = os.environ.get(_CLUSTERS), ray_constants.ENABLE_RAY_CLUSTER
        os.environ[_CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER = "0", False

    def _leave_this_machine(self) -> None:
        if self._kept is None:
            return
        variable, ray_constants.ENABLE_RAY_CLUSTER = self._kept
        if variable is None:
            os.environ.pop(_CLUSTERS, None)
        else:
            os.environ[_CLUSTERS] = variable

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reaper is not None
        self._reaper.stopping()
        try:
            ray.shutdown()
            if self._waker is not None:
                self._waker.close()
            self._leave_this_machine()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._reaper.dismiss()

    def _start_waker(self, others: Collection[psutil.Process]) -> None:
        """Have Ray's processes continued when somebody stops one: all children that this one has besides `others`."""
        own = [child.pid for child in psutil.Process().children() if child not in others]
        self._waker = RayWaker(dict(when_started(pid for family in families_of(own).values() for pid in family)))

    def _temp_folder(self) -> Path:
        """A folder for Ray in one that only this user can enter, by a name short enough for the sockets in it."""
        parent = (self._scratch / "ray").resolve()
        make_own(self._scratch, "run.scratch")
        make_own(parent, "run.scratch")
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        if len(os.fsencode(self._folder / _RAYS)) <= _LONGEST_TEMP:
            return self._folder / _RAYS
        # The same folder by way of an open descriptor of this process, whatever its path is.
        self._descriptor = os.open(self._folder, os.O_RDONLY)
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}/{_RAYS}")


def standing_in(nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
    """The same machines, but in the place of those (of the numbers `used`) that are gone others that have `gpus` GPUs.

    MachinesGone when there are too few of them.
    """
    there = _gpus_of_machines()
    free = sorted(node for node, has in there.items() if node not in nodes and has >= gpus)
    found, lacking = list(nodes), []
    for number in sorted(used):
        if nodes[number] in there:
            continue
        if free:
            found[number] = free.pop(0)
        else:
            lacking.append(number)
    if lacking:
        raise MachinesGone(found, lacking, f" with {gpus} GPUs (cluster.gpus_per_node)" if gpus else "")
    return found


def present(gpus: int) -> list[str]:
    """Machines of the cluster with `gpus` GPUs or more."""
    return sorted(node for node, has in _gpus_of_machines().items() if has >= gpus)


def gone(nodes: Sequence[str]) -> list[str]:
    """Those of these machines that the cluster has lost."""
    there = _gpus_of_machines()
    return [node for node in nodes if node not in there]


def node_ids(count: int, gpus: int) -> list[str]:
    """Ids of `count` machines of the cluster that have `gpus` GPUs or more, this one first.

    Raises UserError when there are fewer.
    """
    here = ray.get_runtime_context().get_node_id()
    usable = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus]
    if len(usable) < count:
        what = f" with {gpus} GPUs (cluster.gpus_per_node)" if gpus else ""
        raise UserError(
            f"cluster.nodes={count}, but the Ray cluster has {len(usable)}{what}; start Ray on the others first"
        )
    return sorted((node["NodeID"] for node in usable), key=lambda node: (node != here, node))[:count]


def _gpus_of_machines() -> dict[str, float]:
    """Of those that are there. RayDied where this one's raylet has died, which Ray says some 12 s later."""
    there = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]}
    watch_raylet().check()
    return there


def watch_raylet() -> RayletWatch:
    """Watch the raylet that this process is connected to. Ray must be up."""
    own: Any = worker._global_node
    return RayletWatch(own.raylet_socket_name)


def own_processes(besides: Collection[int]) -> set[int]:
    """What Ray has started on this machine for this job, but for the processes `besides` and what they started."""
    raylet = watch_raylet().process
    return set() if raylet is None else below(raylet, besides, ray.get_runtime_context().get_job_id())
