"""The configuration of the supervised stage before a run: its own recipe on this run's model, machines and folders."""

from __future__ import annotations

import copy
import dataclasses

from rlscale.config.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.algo import SftLoss

_TAKEN = ("model", "parallel", "cluster")


def compose_warm_start(config: Config) -> Config:
    """The stage's configuration, with model, parallel, cluster, seed and folders of `config`; read-only.

    Raises UserError when there is no warm start, when its recipe is missing or when it is not supervised.
    """
    if config.warm_start is None:
        raise UserError("warm_start: is null, so there is no stage before this one")
    stage = compose(config.warm_start.recipe)
    if not isinstance(stage.algo.loss, SftLoss):
        raise UserError("a warm start is supervised; its recipe must choose algo=sft")
    taken = {name: copy.deepcopy(getattr(config, name)) for name in _TAKEN}
    groups = {key: option for key, option in stage.run.groups.items() if key not in _TAKEN}
    groups.update({key: option for key, option in config.run.groups.items() if key in _TAKEN})
    run = dataclasses.replace(
        stage.run,
        seed=config.run.seed,
        root=config.run.root,
        scratch=config.run.scratch,
        progress=config.run.progress,
        groups=groups,
    )
    joined = dataclasses.replace(stage, **taken, run=run)
    joined.freeze()
    return joined
