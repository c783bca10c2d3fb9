"""The configurations of the stages before a run: another recipe on this run's model, machines, seed and folders."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path

from rlscale.config.composition.compose import compose
from rlscale.config.composition.recipe_file import is_path
from rlscale.config.derived.needs import Needs
from rlscale.config.errors import UserError
from rlscale.config.schema import Config

_TAKEN = ("model", "parallel", "cluster")


def compose_warm_start(config: Config) -> Config:
    """The configuration of the supervised stage that the policy starts from; read-only.

    Raises UserError when there is no warm start, when its recipe is missing or when it is not supervised.
    """
    if config.warm_start is None:
        raise UserError("warm_start: is null, so there is no stage before this one")
    stage = _compose(config.warm_start.recipe, config)
    if not Needs.of(stage).supervised:
        raise UserError("a warm start is supervised; its recipe must choose algo=sft")
    return stage


def compose_teacher(config: Config) -> Config:
    """The configuration of the stage that makes the teacher; read-only. It may have a warm start of its own.

    Raises UserError when no recipe makes the teacher, when the recipe is missing or when it needs a teacher itself.
    """
    if config.teacher.recipe is None:
        raise UserError("teacher.recipe: is null, so no stage makes the teacher")
    stage = _compose(config.teacher.recipe, config)
    if stage.teacher.recipe is not None:
        raise UserError("a teacher's recipe has no teacher.recipe of its own; name a finished model as teacher.path")
    return stage


@functools.cache
def _shipped(recipe: str, folder: Path) -> Config:
    """A shipped recipe as it is, its paths from the current `folder`. The runs of a sweep ask again and again."""
    return compose(recipe)


def _compose(recipe: str, config: Config) -> Config:
    """The recipe with model, parallel, cluster, seed and folders of `config`."""
    stage = compose(recipe) if is_path(recipe) else _shipped(recipe, Path.cwd())
    taken = {name: copy.deepcopy(getattr(config, name)) for name in _TAKEN}
    # What comes before a run makes the model that the run's adapters stand on.
    taken["model"] = dataclasses.replace(taken["model"], lora=None)
    if stage.critic.model == stage.model:
        taken["critic"] = dataclasses.replace(stage.critic, model=copy.deepcopy(taken["model"]))
    groups = {key: option for key, option in stage.run.groups.items() if key not in _TAKEN}
    groups.update({key: option for key, option in config.run.groups.items() if key in _TAKEN})
    environment = {key: names for key, names in stage.run.environment.items() if key.partition(".")[0] not in _TAKEN}
    environment |= {key: names for key, names in config.run.environment.items() if key.partition(".")[0] in _TAKEN}
    run = dataclasses.replace(
        stage.run,
        seed=config.run.seed,
        root=config.run.root,
        scratch=config.run.scratch,
        progress=config.run.progress,
        in_process=config.run.in_process,
        recover=config.run.recover,
        recover_at_most=config.run.recover_at_most,
        recover_smaller_after_s=config.run.recover_smaller_after_s,
        groups=groups,
        environment=environment,
    )
    joined = dataclasses.replace(stage, **taken, run=run)
    joined.freeze()
    return joined
