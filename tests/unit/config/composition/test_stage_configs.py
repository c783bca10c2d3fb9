"""The stage before a run takes the run's model and machines, and keeps its own recipe otherwise."""

from __future__ import annotations

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.stage_configs import compose_warm_start
from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash
from rlscale.config.schema.run_config import Recover


def test_the_stage_takes_model_machines_seed_and_folders() -> None:
    run = compose(
        None, ["model.create.seed=7", "run.seed=5", "run.root=/r", "parallel.data=2", "cluster.max_engines=3"]
    )
    stage = compose_warm_start(run)
    assert (stage.model, stage.parallel, stage.cluster) == (run.model, run.parallel, run.cluster)
    assert (stage.run.seed, stage.run.root, stage.run.recipe) == (5, "/r", "arithmetic_sft")
    assert stage.algo.name == "sft"
    assert compose_warm_start(compose(None, ["run.recover=none"])).run.recover is Recover.none
    assert compose_warm_start(compose(None, ["run.recover_at_most=9"])).run.recover_at_most == 9
    assert compose_warm_start(compose(None, ["run.recover_smaller_after_s=9"])).run.recover_smaller_after_s == 9
    with pytest.raises(AttributeError, match="read-only"):
        stage.run.seed = 1


def test_the_stage_is_the_same_for_runs_that_differ_after_it() -> None:
    stages = [compose_warm_start(compose(None, [text])) for text in ("algo/kl=loss", "optim.lr=1", "run.iterations=2")]
    assert len({config_hash(stage) for stage in stages}) == 1
    other = compose_warm_start(compose(None, ["run.seed=9"]))
    assert config_hash(other) != config_hash(stages[0])


def test_no_warm_start_is_said() -> None:
    with pytest.raises(UserError, match="warm_start: is null"):
        compose_warm_start(compose(None, ["warm_start=null"]))
