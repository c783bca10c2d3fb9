"""The fleet that does nothing but evaluate (`eval.engines`): its engines, their router, and the service that asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlscale.config.schema import Config
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.sides.engine_side import RunningEngines
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.evaluation_engines import LOGS, EvaluationEngines, measuring_apart
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.run_context import RunContext
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.run.sides.weight_sync import WeightSync


class EvaluationFleet:
    """`launch` starts it without waiting, `ready` waits."""

    def __init__(self, config: Config, context: RunContext, model: Path, reserved: frozenset[int]) -> None:
        """`config`, `context`: the run's. `reserved`: machines whose GPUs the policy's fleet reserved already."""
        self._config = measuring_apart(config)
        own = context.for_fleet("evaluation", context.logs / LOGS, context.layout.eval_engines)
        self.engines = own.fleet(self._config, reserved=reserved)
        self._own, self._spec = own, RolloutSpec.of(self._config, model)
        self._rollout: Rollout | None = None

    @property
    def restarts(self) -> int:
        """Servers of it that died and were started again."""
        return self.engines.restarts

    @property
    def machines(self) -> frozenset[int]:
        """Machines whose GPUs are reserved, once it was launched; see `Engines.machines`."""
        return self.engines.machines

    @property
    def rollout(self) -> Rollout:
        """The service, once it was launched."""
        assert self._rollout is not None
        return self._rollout

    def launch(self, served: Path) -> None:
        """Begin to start its engines from a folder, a router before them and the service."""
        self.engines.launch(str(served))
        self._rollout = self._own.rollout(self._spec)

    def ready(self, trainer: TrainerGroup, sync: Callable[[Config, Engines, Rollout], WeightSync]) -> EvaluationEngines:
        """Wait until it answers; who evaluates on it, with the weights of the trainer that `sync` brings there."""
        self.rollout.prepared()
        self.engines.ready()
        self.rollout.start(self.engines.router_url, self.engines.api_key)
        given = sync(self._config, self.engines, self.rollout)
        side = RunningEngines(trainer, self.engines, self.rollout, given, shares_devices=False)
        return EvaluationEngines(side, self.engines, self.rollout)

    def close(self) -> None:
        """End its servers and the service."""
        self.engines.close()
        if self._rollout is not None:
            self._rollout.close()
