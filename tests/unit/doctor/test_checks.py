"""Each check of the doctor in its bad state, and the machine that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema import Config
from rlscale.doctor.facts import Facts, Folder, Gpu, Link, Listening
from rlscale.doctor.finding import Verdict
from rlscale.doctor.registry import CLUSTER, MACHINE, examine

LOCK = {"torch": "2.13.0", "rich": "14.0"}
PACKAGES = {"torch": "2.13.0+cu130", "rich": "14.0", "transformer_engine": "2.8.0"}
H100 = Gpu("H100", 85e9, 1e6)
READY = Facts(
    name="a",
    python="3.11.7",
    packages=PACKAGES,
    cores=64,
    memory_bytes=2e12,
    available_bytes=1.9e12,
    shared_bytes=5e11,
    gpus=(H100,) * 8,
    driver="580.1",
    folders={"run.scratch": Folder(".rlscale", True, 1e13), "run.root": Folder("outputs", True, 1e13)},
    open_files=1 << 20,
    open_files_most=1 << 20,
    listening=Listening("0.0.0.0", True, 20, 32768),
    unreadable=(),
    to_download=(),
    offline=False,
    hub_cache=Folder("/hub", True, 1e13),
    variables={},
)
FULL = Folder("/full", True, 1e9)
CLOSED = Folder("/closed", False, 1e13)


@pytest.fixture(scope="module")
def gpus() -> Config:
    eight = ("model=qwen3_30b", "parallel=moe_8gpu", "cluster=node8", "rollout.engines=8", "trainer.fp8=blockwise")
    return compose(None, list(eight))


@pytest.fixture(scope="module")
def cpu() -> Config:
    return compose(None, [])


def said(config: Config, facts: Sequence[Facts], links: Sequence[Link] = ()) -> dict[Verdict, list[tuple[str, str]]]:
    """What is not fine, as check and line, by how bad it is."""
    found: dict[Verdict, list[tuple[str, str]]] = {Verdict.problem: [], Verdict.warning: []}
    for name, where, finding in examine(config, facts, LOCK, links):
        if finding.verdict is not Verdict.ok:
            found[finding.verdict].append((name, finding.line(name, where)))
    return found


def test_gpus_whose_memory_the_driver_does_not_tell_are_ready(gpus: Config) -> None:
    unknown = Gpu("GB10", nan, nan)
    assert said(gpus, [replace(READY, gpus=(unknown,) * 8)])[Verdict.problem] == []
    both = replace(READY, gpus=(*(replace(H100, used_bytes=4e10),) * 2, *(H100,) * 6))
    assert "GPUs 0, 1 are in use; " in said(gpus, [both])[Verdict.problem][0][1]


def test_a_machine_that_is_ready_has_nothing_to_complain_of(gpus: Config) -> None:
    assert said(gpus, [READY]) == {Verdict.problem: [], Verdict.warning: []}


BAD_GPU_MACHINES = {
    "versions": replace(READY, packages={**PACKAGES, "torch": "2.9.0"}),
    "torch": replace(READY, packages={**PACKAGES, "torch": "2.13.0+cpu"}),
    "FP8": replace(READY, packages={**PACKAGES, "transformer_engine": None}),
    "devices": replace(READY, gpus=(H100,) * 7),
    "memory": replace(READY, memory_bytes=1e11),
    "disk": replace(READY, folders={"run.root": FULL}),
    "shared memory": replace(READY, shared_bytes=64e6),
    "open files": replace(READY, open_files=256),
    "ports": replace(READY, listening=Listening("10.0.0.9", False, 20, 32768)),
    "files": replace(READY, unreadable=("data.path=x.jsonl: there is no such file",)),
    "hub cache": replace(READY, to_download=("model.path=a/b",), offline=True),
    "environment": replace(READY, variables={"RAY_AUTH_MODE": "disabled"}),
}


def test_every_check_of_a_machine_has_its_bad_state_here() -> None:
    assert BAD_GPU_MACHINES.keys() == {"versions", *MACHINE}
    assert {*CLUSTER, "network"} == {"software", "clocks", "network"}


@pytest.mark.parametrize("check", BAD_GPU_MACHINES)
def test_what_keeps_a_run_from_starting_is_a_problem_with_its_remedy(check: str, gpus: Config) -> None:
    problems = said(gpus, [BAD_GPU_MACHINES[check]])[Verdict.problem]
    assert [name for name, _ in problems] == [check]
    assert problems[0][1].count("; ") >= 1


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            replace(READY, gpus=()),
            "problem  devices: 0 GPUs, and cluster.gpus_per_node=8; lower it, or choose cluster=local_cpu",
        ),
        (
            replace(READY, gpus=(replace(H100, used_bytes=4e10), *(H100,) * 7)),
            "problem  devices: GPU 0 is in use; end what runs there (nvidia-smi)",
        ),
        (
            replace(READY, folders={"run.scratch": CLOSED}),
            "problem  disk: run.scratch=/closed cannot be written to; choose another folder as run.scratch",
        ),
        (
            replace(READY, listening=Listening("0.0.0.0", True, 2, 32768)),
            "problem  ports: of 20 ports from 20000 to 31999 2 are free; end what listens there (ss -ltn)",
        ),
        (
            replace(READY, to_download=("model.path=a/b",), hub_cache=CLOSED),
            "problem  hub cache: model.path=a/b cannot be downloaded to /closed; set HF_HOME to a folder of yours",
        ),
        (
            replace(READY, open_files=2048),
            "warning  open files: 2,048 open files of a process, 4,096 are needed; ulimit -n 4096",
        ),
        (
            replace(READY, open_files=2048, open_files_most=2048),
            "warning  open files: 2,048 open files of a process, 4,096 are needed; raise nofile in "
            "/etc/security/limits.conf",
        ),
        (
            replace(READY, listening=Listening("0.0.0.0", True, 20, 1024)),
            "warning  ports: outgoing connections may take ports from 1024, where servers of the run listen; "
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        ),
        (
            replace(READY, to_download=("model.path=a/b",)),
            "warning  hub cache: model.path=a/b is not in /hub yet; hf download it first; the run does otherwise",
        ),
        (
            replace(READY, packages={**PACKAGES, "transformer_engine": "2.2.0"}),
            "problem  FP8: Transformer Engine 2.2.0 does not have trainer.fp8=blockwise; install 2.3 or later",
        ),
        (
            replace(READY, packages={**PACKAGES, "rich": None}),
            "warning  versions: rich missing instead of 14.0; install requirements.lock (make install)",
        ),
        (
            replace(READY, open_ray=True),
            "problem  environment: Ray asks for no token: whoever reaches it runs what they like as you; start it with "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, on every machine (docs/security.md)",
        ),
        (
            replace(READY, open_ray=None),
            "warning  environment: whether Ray asks for a token could not be found out; see that it was started with "
            "RAY_AUTH_MODE=token (docs/security.md)",
        ),
        (
            replace(READY, variables={"CUDA_LAUNCH_BLOCKING": "1"}),
            "warning  environment: CUDA_LAUNCH_BLOCKING=1 makes every kernel wait; unset it unless you debug",
        ),
    ],
)
def test_lines_say_what_was_found_and_what_to_do(facts: Facts, line: str, gpus: Config) -> None:
    found = said(gpus, [facts])
    assert [text for kind in found.values() for _, text in kind] == [line]


def test_memory_that_others_use_and_a_disk_that_is_nearly_full_are_warnings(gpus: Config) -> None:
    busy = replace(READY, available_bytes=1e11, folders={"run.scratch": Folder("s", True, 9e10)})
    assert [name for name, _ in said(gpus, [busy])[Verdict.warning]] == ["memory", "disk"]


def test_gpus_smaller_than_the_plan_was_made_for_are_a_problem() -> None:
    config = compose(None, ["model=qwen3_30b", "cluster=node8", "cluster.gpu_memory_gb=141"])
    assert "GPUs of 85 GB, and cluster.gpu_memory_gb=141" in said(config, [READY])[Verdict.problem][0][1]


def test_copies_of_the_state_that_rays_store_cannot_hold_are_a_warning() -> None:
    given = ["model=qwen3_0_6b", "cluster=node8", "cluster.gpus_per_node=2", "parallel.data=2", "rollout.engines=2"]
    narrow = replace(READY, gpus=(H100,) * 2, shared_bytes=4e9)
    ((name, line),) = said(compose(None, given), [narrow])[Verdict.warning]
    assert name == "shared memory"
    assert "for lost ranks take 17 GB, and Ray's object store has 4 GB" in line
    assert line.endswith("; set checkpoint.in_memory=false, or make /dev/shm larger")
    little = replace(narrow, memory_bytes=4e10, available_bytes=4e10, shared_bytes=5e11)  # of which Ray takes 30 %
    (line,) = (line for _, line in said(compose(None, given), [little])[Verdict.warning] if "Ray's object" in line)
    assert "Ray's object store has 12 GB" in line
    assert line.endswith("; set checkpoint.in_memory=false")
    assert said(compose(None, [*given, "checkpoint.in_memory=false"]), [narrow])[Verdict.warning] == []


def test_more_processes_than_cores_are_slow(cpu: Config) -> None:
    ((name, line),) = said(cpu, [replace(READY, cores=0)])[Verdict.warning]
    assert name == "devices"
    assert "share 0 cores, which is slow" in line


def test_machines_with_other_software_late_clocks_and_no_way_between_them_are_named(gpus: Config) -> None:
    other = replace(
        READY, name="b", packages={**READY.packages, "rich": "13.0"}, clock_offset_s=-7.0, clock_error_s=0.1
    )
    links = [
        Link("a", "b", "gloo", 1e9),
        Link("a", "b", "nccl", None, "timed out"),
        Link("b", "a", "gloo", 2e7),
    ]
    found = said(gpus, [READY, other], links)
    assert [line for _, line in found[Verdict.problem]] == [
        "problem  software: a and b have different versions of rich; install the same on both",
        "problem  network: a to b by nccl: nothing came (timed out); open the ports between them, or name the "
        "interface: NCCL_SOCKET_IFNAME",
    ]
    assert [line for _, line in found[Verdict.warning]] == [
        "warning  b: versions: rich 13.0 instead of 14.0; install requirements.lock (make install)",
        "warning  clocks: that of b differs by -7.0 s; run a time service (chrony)",
        "warning  network: b to a by gloo: 0.02 GB/s, which is slow; name the fast interface: GLOO_SOCKET_IFNAME",
    ]


def test_a_clock_that_is_not_known_well_is_not_called_wrong(gpus: Config) -> None:
    other = replace(READY, name="b", clock_offset_s=1.5, clock_error_s=0.9)
    assert said(gpus, [READY, other])[Verdict.warning] == []
