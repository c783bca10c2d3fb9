"""The stages before a run (warm start, teacher): run when their result is missing, afterwards only looked up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.composition.stage_configs import compose_teacher, compose_warm_start
from rlscale.config.derived.needs import Needs
from rlscale.config.keys import config_hash
from rlscale.config.schema import Config
from rlscale.config.schema.checkpoint_config import Resume
from rlscale.run.disk.run_folder import read_mark

WARM_START, TEACHER = "warm start", "teacher"
KEYS = {WARM_START: "warm_start.recipe", TEACHER: "teacher.recipe"}
"""The key that names the recipe of a stage."""


@dataclass(frozen=True)
class Stage:
    """A run whose model another run needs."""

    what: str
    """WARM_START or TEACHER."""
    recipe: str
    """Its recipe, as the run names it."""
    config: Config
    """Its configuration, its folder included."""

    def result(self) -> Path | None:
        """The model that the stage left behind, or None when it has still to run."""
        assert self.config.run.output is not None
        folder = Path(self.config.run.output)
        facts = read_mark(folder)
        model = folder / "hf"
        if facts is None or facts.get("state") != "finished" or not (model / "config.json").is_file():
            return None
        return model.resolve()


def stages_before(config: Config) -> Iterator[Stage]:
    """The stages whose results a run starts from, in the order in which they run."""
    if config.warm_start is not None and config.model.init is None:
        yield Stage(WARM_START, config.warm_start.recipe, _placed(compose_warm_start(config)))
    if config.teacher.recipe is not None and Needs.of(config).teacher:
        yield Stage(TEACHER, config.teacher.recipe, _placed(compose_teacher(config)))


def with_result(config: Config, what: str, model: Path) -> Config:
    """This run's configuration with the model that the stage `what` made."""
    if what == TEACHER:
        changed = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, path=str(model), recipe=None))
    else:
        started = dataclasses.replace(config.model, init=str(model))
        # A critic that is the policy's model goes on from the same weights.
        critic = started if config.critic.model == config.model else config.critic.model
        changed = dataclasses.replace(
            config, model=started, critic=dataclasses.replace(config.critic, model=critic), warm_start=None
        )
    changed.freeze()
    return changed


def _placed(stage: Config) -> Config:
    """The stage in a folder named by the hash of its configuration, where it is found again."""
    folder = Path(stage.run.root) / stage.run.recipe / f"stage-{config_hash(stage)[:12]}"
    placed = dataclasses.replace(
        stage,
        run=dataclasses.replace(stage.run, output=str(folder)),
        checkpoint=dataclasses.replace(stage.checkpoint, resume=Resume.auto),
    )
    placed.freeze()
    check(placed)
    return placed
