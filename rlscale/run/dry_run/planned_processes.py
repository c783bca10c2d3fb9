"""Every process that a run would start, with its command line, from the functions that start them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlscale.config.derived.needs import Needs
from rlscale.config.derived.serving_beside import serving_beside
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import TARGET
from rlscale.run.dry_run.started_folders import StartedFolders
from rlscale.run.processes.actor import shown_as
from rlscale.run.processes.actor_settings import ROLLOUT_ENVIRONMENT, launcher_log, rank_settings, reserved_gpus
from rlscale.run.processes.actors import LauncherActor, RolloutActor, TrainerActor
from rlscale.run.processes.forks import fork_server_programs
from rlscale.run.processes.placement import Layout, lay_out_run
from rlscale.run.sides.engine_specs import engine_specs, router_settings
from rlscale.run.sides.evaluation_engines import LOGS as EVALUATION
from rlscale.run.sides.evaluation_engines import measuring_apart
from rlscale.run.sides.launchers import LOOPBACK
from rlscale.run.sides.models_beside import LOGS as BESIDE
from rlscale.serve.engine_launcher import SglangLauncher
from rlscale.serve.engine_process import engine_command
from rlscale.serve.fork_server import fork_server_command
from rlscale.serve.router import router_command, router_options
from rlscale.serve.server_spec import base_environment, engine_order, server_environment

_KEY = "(made when the run starts)"
_PORT = "(a free one)"
_SGLANG = f"{SglangLauncher.__module__}.{SglangLauncher.__name__}"

Process = dict[str, Any]
"""`name`, `machine` (its number), and what of these there is: `gpus`, `command`, `standard_input`, `environment`
(variables that differ from this shell's), `log` (in the run's folder), `actor` (Ray's class), `reserves_gpus`,
`holds` (names of actors that are part of it)."""


def planned_processes(config: Config, folders: StartedFolders, command: list[str]) -> list[Process]:
    """The processes of a run that `command` would start, the driver first."""
    layout, needs = lay_out_run(config), Needs.of(config)
    found: list[Process] = [{"name": "driver", "machine": 0, "command": command}]
    if config.cluster.ray_address is None and not config.run.in_process:
        found.append({"name": "Ray", "machine": 0, "started_by": "ray.init in the driver; it ends with the driver"})
    for name, program in fork_server_programs(config).items():
        order = {"program": program}
        found.append({"name": name, "machine": 0, "command": fork_server_command(), "standard_input": order})
    found += _ranks(config, layout) if needs.trains else []
    if needs.engines or not needs.supervised:
        found.append(_actor("rollout", 0, RolloutActor, Path("logs/rollout.log"), ROLLOUT_ENVIRONMENT))
    if needs.engines:
        found += _fleets(config, layout, folders)
    return _with_actors_in_the_driver(found) if config.run.in_process else found


def _with_actors_in_the_driver(found: list[Process]) -> list[Process]:
    """`run.in_process`: what would be actors is part of the first process."""
    driver, *others = found
    driver["holds"] = [one["name"] for one in others if "actor" in one]
    return [driver, *(one for one in others if "actor" not in one)]


_TELLING = ("", EVALUATION)
"""Engines that tell all that training asks for: those of the evaluation do what the policy's do."""


def _ranks(config: Config, layout: Layout) -> Iterator[Process]:
    for one in rank_settings(config, layout, Path("logs")):
        process = _actor(f"rank {one.rank}", one.node, TrainerActor, one.log, one.environment)
        gpus = {"gpus": [one.local]} if config.cluster.device is Device.cuda else {}
        yield {**process, **gpus, "runs": config.trainer._target_}


def _fleets(config: Config, layout: Layout, folders: StartedFolders) -> Iterator[Process]:
    """Launchers, engines and router of the policy, of the evaluation, and of each model beside the policy."""
    reserved: frozenset[int] = frozenset()
    own = config if Needs.of(config).trains else folders.serving(config)
    fleets = [("", own, layout, folders.policy)]
    if layout.eval_engines:
        apart = replace(layout, engines=layout.eval_engines)
        fleets.append((EVALUATION, measuring_apart(config), apart, folders.policy))
    for name in config.rollout.models:
        beside = replace(layout, engines=layout.beside.get(name, ()))
        fleets.append((f"{BESIDE}/{name}", serving_beside(config, name), beside, folders.beside(name)))
    for part, of_fleet, slots, model in fleets:
        yield from _fleet(part, of_fleet, slots, model, folders, reserved, trained_on=part in _TELLING)
        reserved |= _machines(of_fleet, slots)


def _machines(config: Config, layout: Layout) -> frozenset[int]:
    slots = () if config.rollout.engine_urls else layout.engines
    return frozenset({0, *(slot.node for slot in slots)})


def _fleet(
    part: str,
    config: Config,
    layout: Layout,
    model: str,
    folders: StartedFolders,
    reserved: frozenset[int],
    *,
    trained_on: bool,
) -> Iterator[Process]:
    """`part`: folder of its logs below the run's, by which it is called; "" for the policy's."""
    logs, prefix = Path("logs") / part, f"{part}: " if part else ""
    for node in sorted(_machines(config, layout)):
        launcher = _actor(f"{prefix}launcher {node}", node, LauncherActor, logs / launcher_log(node), {})
        yield {**launcher, "reserves_gpus": reserved_gpus(config.cluster, node, reserved)}
    router = router_options(router_settings(config), LOOPBACK, 0, 0)
    router |= {"port": _PORT, "prometheus_port": _PORT}
    yield {
        "name": f"{prefix}router",
        "machine": 0,
        "command": router_command(),
        "standard_input": {"options": router, "api_key": _KEY},
        "log": str(logs / "router.log"),
    }
    slots = () if config.rollout.engine_urls else layout.engines
    specs = engine_specs(config, slots, model, folders.draft(config), trained_on=trained_on)
    for slot, spec in zip(slots, specs, strict=True):
        process: Process = {"name": prefix + spec.name, "machine": slot.node}
        if slot.gpus:
            process["gpus"] = list(slot.gpus)
        target = str(config.rollout.engine.get(TARGET, _SGLANG))
        if target == _SGLANG:
            order = engine_order(spec, 0, _KEY)
            order["options"]["port"] = _PORT
            process |= {
                "command": engine_command(),
                "standard_input": folders.shown(order),
                "environment": folders.shown(_own(server_environment(spec, folders.scratch))),
            }
        else:
            process |= {"runs": target, "arguments": folders.shown(json.loads(json.dumps(vars(spec), default=_plain)))}
        yield {**process, "log": str(logs / f"{spec.name}.log")}


def _actor(name: str, machine: int, actor: type, log: Path, environment: Mapping[str, str]) -> Process:
    """A Ray actor, by the name that `ps` shows."""
    process: Process = {"name": name, "machine": machine, "command": [shown_as(actor, log)], "actor": actor.__name__}
    return {**process, **({"environment": dict(environment)} if environment else {}), "log": str(log)}


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process gets and this one does not have, or has otherwise."""
    here = base_environment()
    return {name: value for name, value in sorted(environment.items()) if here.get(name) != value}


def _plain(value: Any) -> Any:
    return getattr(value, "value", None) or vars(value)
