"""About how much room a run takes on a machine, as far as its model's architecture is known."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.derived.needs import Needs
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.plan.planned_run import COPIES, COPIES_AT_ONCE, COPIES_STORED, plan_run

_OPTIMIZER = 12
"""Bytes for a parameter in a checkpoint besides the weight: the master copy and Adam's two moments."""


@dataclass(frozen=True)
class Needed:
    """Bytes; None where they are not known."""

    host_bytes: float | None
    """Of a machine's memory."""
    output_bytes: float | None
    """Of the disk with the run's folder: the checkpoints that are kept, one that is being written, the exports."""
    scratch_bytes: float | None
    """Of the disk for what can be made again: copies of the weights that engines start from."""
    copied_bytes: float | None = 0.0
    """Of Ray's object store on a machine, for the copies of the trainer's state that lost ranks begin with."""

    @classmethod
    def of(cls, config: Config) -> Needed:
        """What a checked configuration needs."""
        try:
            plan = plan_run(config)
        except (UserError, KeyError, TypeError, ValueError):  # a model that is neither here nor shipped
            return cls(None, None, None, None)
        on_cpu = config.cluster.device is Device.cpu  # where everything lies in the host's memory
        host = plan.worst.total if on_cpu else sum(plan.host.values())
        weights = plan.parameters * config.model.dtype.bytes
        checkpoint = weights + (plan.parameters * _OPTIMIZER if config.model.lora is None else 0)
        saved = config.checkpoint.keep + config.checkpoint.keep_best + 1  # one is being written
        kept = saved * checkpoint if Needs.of(config).trains else 0
        copied = (plan.worst.kinds if on_cpu else plan.host).get(COPIES, 0.0) * COPIES_STORED / COPIES_AT_ONCE
        return cls(float(host), float(kept + weights), float(weights), float(copied))
