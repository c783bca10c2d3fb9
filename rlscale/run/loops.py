"""The loops. Each reads as the story of an iteration: collect, train, sync, record, go on."""

from __future__ import annotations

from rlscale.config.needs import Needs
from rlscale.config.schema.cluster_config import Placement
from rlscale.run.session import Session


def by_placement(run: Session) -> None:
    """The loop that algorithm and `cluster.placement` ask for."""
    needs = Needs.of(run.config)
    if needs.supervised:
        supervised(run)
    elif not needs.trains:
        generating(run)
    elif run.config.cluster.placement is Placement.disaggregated:
        disaggregated(run)
    else:
        colocated(run)


def colocated(run: Session) -> None:
    """Trainer and engines share the devices and take turns."""
    run.begin()
    for _ in run.iterations():
        groups = run.collect()
        run.trainer_takes_devices()
        run.train(groups)
        run.sync()
        run.record()
        run.engines_take_devices()
        run.go_on()
    run.end()


def disaggregated(run: Session) -> None:
    """Trainer and engines have their own devices; with `rollout.max_staleness` > 0 the engines run ahead meanwhile."""
    run.begin()
    for _ in run.iterations():
        groups = run.collect()
        run.train(groups)
        run.pause_generation()
        run.sync()
        run.record()
        run.go_on()
    run.end()


def supervised(run: Session) -> None:
    """The data holds the answers: no engine generates, none needs the weights before the evaluation."""
    run.begin()
    for _ in run.iterations():
        groups = run.collect()
        run.trainer_takes_devices()
        run.train(groups)
        run.record()
        run.go_on()
    run.end()


def generating(run: Session) -> None:
    """Nothing is trained: what was generated is stored, and the engines keep their weights."""
    run.begin()
    for _ in run.iterations():
        groups = run.collect()
        run.train(groups)
        run.record()
        run.go_on()
    run.end()
