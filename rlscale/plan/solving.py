"""Layouts and settings of a run that fit its devices, the fastest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device, Placement
from rlscale.config.schema.trainer_config import Recompute
from rlscale.families.tensors import experts_of
from rlscale.plan.plan_lines import rounded
from rlscale.plan.planned_run import Plan, plan_run
from rlscale.plan.trainer_memory import GIB

_BEST = 5
_LONG = 32_768
"""Tokens of a sample from which on other sizes of context parallelism are tried, too."""


@dataclass(frozen=True)
class Solution:
    """Settings that fit."""

    overrides: list[str]
    plan: Plan

    def words(self) -> str:
        """What they come to."""
        worst = self.plan.worst
        filled = f"{worst.total / GIB:.1f} GiB at most ({worst.name})"
        if self.plan.time is None:
            return filled
        whole = self.plan.time.whole
        return f"{rounded(whole.least)} to {rounded(whole.most)} s an iteration, {filled}"


def solve(recipe: str | None, overrides: Sequence[str], config: Config) -> list[Solution]:
    """The best settings that fit, compose and pass the checks; empty where none of those tried does."""
    if config.cluster.device is not Device.cuda:
        raise UserError("--solve chooses layouts of GPUs; choose cluster=node8 or another cluster that has them")
    architecture = architecture_of(config.model)
    fitting = []
    for setting in _settings(config, architecture):
        plan = plan_run(setting.applied(config), architecture)
        if plan.fits:
            fitting.append((setting.overrides(config), plan))
    found: list[Solution] = []
    for changes, plan in sorted(fitting, key=lambda one: _rank(one[1])):
        try:
            check(compose(recipe, [*overrides, *changes]), architecture)
        except (ConfigError, UserError):
            continue
        found.append(Solution(changes, plan))
        if len(found) == _BEST:
            break
    return found


def _rank(plan: Plan) -> tuple[float, float]:
    """The fastest first; of equally fast ones, that which leaves most room."""
    time = plan.time
    return (round(time.whole.least + time.whole.most, 1) if time is not None else 0.0, plan.worst.total)


@dataclass(frozen=True)
class _Setting:
    """What is tried."""

    tensor: int
    pipeline: int
    context: int
    expert: int
    recompute: Recompute
    tokens: int
    on_host: bool
    engines: tuple[int, int] | None
    """Engines, and GPUs of each."""

    def applied(self, config: Config) -> Config:
        """The configuration with it."""
        parallel = replace(
            config.parallel,
            tensor=self.tensor,
            sequence=self.tensor > 1,
            pipeline=self.pipeline,
            context=self.context,
            expert=self.expert,
        )
        rollout = config.rollout
        if self.engines is not None:
            rollout = replace(rollout, engines=self.engines[0], gpus_per_engine=self.engines[1])
        optim = replace(config.optim, on_host=self.on_host)
        trainer = replace(
            config.trainer,
            recompute=self.recompute,
            max_tokens_per_microbatch=self.tokens,
            distributed_optimizer=True,
        )
        return replace(config, parallel=parallel, trainer=trainer, optim=optim, rollout=rollout)

    def overrides(self, config: Config) -> list[str]:
        """The words of the command line that select it, without those that change nothing."""
        sequence = str(self.tensor > 1).lower()
        old, trainer = config.parallel, config.trainer
        rollout = config.rollout
        wanted: list[tuple[str, object, object]] = [
            ("parallel.tensor", old.tensor, self.tensor),
            ("parallel.sequence", str(old.sequence).lower(), sequence),
            ("parallel.pipeline", old.pipeline, self.pipeline),
            ("parallel.context", old.context, self.context),
            ("parallel.expert", old.expert, self.expert),
            ("trainer.recompute", trainer.recompute.value, self.recompute.value),
            ("trainer.max_tokens_per_microbatch", trainer.max_tokens_per_microbatch, self.tokens),
            ("trainer.distributed_optimizer", str(trainer.distributed_optimizer).lower(), "true"),
            ("optim.on_host", str(config.optim.on_host).lower(), str(self.on_host).lower()),
        ]
        if self.engines is not None:
            wanted.append(("rollout.engines", rollout.engines, self.engines[0]))
            wanted.append(("rollout.gpus_per_engine", rollout.gpus_per_engine, self.engines[1]))
        return [f"{key}={new}" for key, before, new in wanted if before != new]


def _settings(config: Config, architecture: Mapping[str, Any]) -> Iterator[_Setting]:
    """What is worth trying."""
    sizes = Sizes.of(config)
    caps = sorted({config.trainer.max_tokens_per_microbatch, max(sizes.max_sequence_tokens, 2048)})
    layouts = list(_layouts(config, sizes, architecture))
    for layout, how, tokens, on_host, engines in product(
        layouts, (Recompute.none, Recompute.full), caps, (False, True), _engines(config, sizes)
    ):
        yield _Setting(*layout, how, tokens, on_host, engines)


def _layouts(config: Config, sizes: Sizes, architecture: Mapping[str, Any]) -> Iterator[tuple[int, int, int, int]]:
    """Tensor, pipeline, context and expert sizes that divide the model and the trainer's devices."""
    experts, devices = experts_of(architecture), sizes.trainer_devices
    heads, layers = int(architecture["num_key_value_heads"]), int(architecture["num_hidden_layers"])
    contexts = {config.parallel.context, *((1, 2, 4, 8) if sizes.max_sequence_tokens >= _LONG else ())}
    for tensor, pipeline, context in product((1, 2, 4, 8), (1, 2, 4, 8, 16), sorted(contexts)):
        divides = heads % tensor == 0 and layers % pipeline == 0 and devices % (tensor * pipeline * context) == 0
        if not divides or tensor > config.cluster.gpus_per_node:
            continue
        stage = devices // pipeline
        spread = [size for size in (1, 2, 4, 8, 16, 32) if experts and experts % size == 0 and stage % size == 0]
        for expert in spread[-2:] or [1]:
            yield tensor, pipeline, context, expert


def _engines(config: Config, sizes: Sizes) -> list[tuple[int, int] | None]:
    """Engines x GPUs of each that fill the devices."""
    if not sizes.engine_gpus or config.rollout.engine_urls or config.rollout.engine_groups:
        return [None]
    shared = config.cluster.placement is Placement.colocated
    devices = sizes.trainer_devices if shared else sizes.engine_devices
    widths = {config.rollout.gpus_per_engine, *(size for size in (1, 2, 4, 8) if devices % size == 0)}
    # Those that evaluate have as many GPUs each, and are as many as before.
    numbers = {size: devices // size - sizes.eval_engines for size in sorted(widths)}
    return [(number, size) for size, number in numbers.items() if number > 0]
