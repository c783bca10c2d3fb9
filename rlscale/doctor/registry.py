"""All checks by the name that their lines begin with. A check more is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rlscale.config.schema import Config
from rlscale.doctor import between_machines, machine_checks, software_checks
from rlscale.doctor.facts import Facts, Link
from rlscale.doctor.finding import Finding

OfMachine = Callable[[Config, Facts], Iterator[Finding]]
OfCluster = Callable[[Config, Sequence[Facts]], Iterator[Finding]]

MACHINE: Mapping[str, OfMachine] = {
    "torch": software_checks.torch_build,
    "FP8": software_checks.eight_bits,
    "devices": machine_checks.devices,
    "memory": machine_checks.memory,
    "disk": machine_checks.disk,
    "shared memory": machine_checks.shared_memory,
    "open files": machine_checks.open_files,
    "ports": machine_checks.ports,
    "files": software_checks.files,
    "hub cache": software_checks.hub_cache,
    "environment": software_checks.environment,
}
CLUSTER: Mapping[str, OfCluster] = {
    "software": between_machines.same_software,
    "clocks": between_machines.clocks,
}

Told = tuple[str, str, Finding]
"""The name of a check, the machine ("" for the whole cluster), and what was found."""


def examine(
    config: Config, facts: Sequence[Facts], lock: Mapping[str, str], links: Sequence[Link] = ()
) -> Iterator[Told]:
    """Everything that the checks say of these machines, the first of them this one."""
    several = len(facts) > 1
    for one in facts:
        where = one.name if several else ""
        for finding in software_checks.versions(lock, one):
            yield "versions", where, finding
        for name, check in MACHINE.items():
            for finding in check(config, one):
                yield name, where, finding
    if several:
        for name, together in CLUSTER.items():
            for finding in together(config, facts):
                yield name, "", finding
        for finding in between_machines.links(links):
            yield "network", "", finding
