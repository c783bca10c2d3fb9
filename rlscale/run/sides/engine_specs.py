"""What the engines of a fleet and the router before them are started with, by the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlscale.config.derived.cpu_threads import engine_threads
from rlscale.config.derived.speculation_options import speculation_options
from rlscale.config.derived.sticky_routing import STICKY, is_sticky
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import EngineGroupConfig
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.families.config_file import complete, read_config
from rlscale.families.linears import adapted_modules
from rlscale.run.processes.placement import Slot, shares_devices
from rlscale.serve.router import PAIRED
from rlscale.serve.served_adapters import ServedAdapters
from rlscale.serve.server_spec import ServerSpec


def served_adapters(config: Config, model_path: str) -> ServedAdapters | None:
    """The kind of adapters that engines of the model compute with; None where they get whole weights."""
    lora = config.model.lora
    if lora is None or not config.serves_adapters:
        return None
    return ServedAdapters(lora.rank, tuple(adapted_modules(complete(read_config(Path(model_path))), lora.targets)))


def engine_specs(
    config: Config, slots: Sequence[Slot], model_path: str, draft: str | None = None, *, trained_on: bool = True
) -> list[ServerSpec]:
    """The specification of each engine, one for each slot; `config` is the run's, with what is the fleet's own.

    Engines of groups come in the groups' order. `model_path`: the folder that they start from; `draft`: that of
    `rollout.speculation.draft`. `trained_on`: whether what they generate is, for which they must tell more.
    """
    rollout, cluster, adapters = config.rollout, config.cluster, served_adapters(config, model_path)
    alike = EngineGroupConfig(engines=len(slots))
    groups = [one for one in rollout.engine_groups.values() or [alike] for _ in range(one.engines)] if slots else []
    speculation = speculation_options(rollout.speculation, model_path, draft)
    return [
        ServerSpec(
            name=f"engine-{number}",
            model_path=model_path,
            device=cluster.device,
            dtype=config.model.dtype.value,
            host=cluster.host,
            options={**rollout.sglang, **group.sglang, **speculation},
            role=group.role,
            tensor_parallel=(group.gpus_per_engine or rollout.gpus_per_engine) if cluster.device is Device.cuda else 1,
            gpus=slot.gpus,
            adapters=adapters,
            quantised_activations=rollout.quantised_activations,
            bitwise=trained_on and config.run.bitwise,
            threads=engine_threads(config),
            seed=config.run.seed,
            memory_saver=shares_devices(cluster),
            routed_experts=trained_on and config.trainer.routing_replay is RoutingReplay.rollout,
            start_timeout_s=cluster.start_timeout_s,
        )
        for number, (slot, group) in enumerate(zip(slots, groups, strict=True))
    ]


def router_settings(config: Config) -> dict[str, Any]:
    """The options of the fleet's router that are not rlscale's own for every run."""
    sticky = is_sticky(config.rollout, config.env, config.agent)
    paired = {PAIRED: True} if config.rollout.disaggregated else {}
    return {**({"policy": STICKY} if sticky else {}), **config.rollout.router, **paired}
