"""Engines that may join a run: what it needs to say, and what none could do that somebody else starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError

APART = ["cluster.placement=disaggregated", "rollout.max_staleness=1"]


@pytest.fixture
def joining(tmp_path: Path) -> list[str]:
    key = tmp_path / "engine.key"
    key.write_text("secret")
    return ["rollout.engines_at_most=4", f"rollout.engine_key_file={key}"]


def test_a_run_may_say_how_many_engines_it_needs_and_takes(joining: list[str]) -> None:
    check(compose(None, [*joining, "rollout.engines=2", "rollout.engines_at_least=1"]))
    check(compose(None, [*joining, *APART, "weights/transport=delta"]))
    check(compose(None, ["rollout.engine_urls=[http://127.0.0.1:9]", "rollout.engines_at_most=2"]))


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["rollout.engines_at_least=2"], r"engines_at_least=2: the run begins with 1; lower it, or start more"),
        (["rollout.engines=3", "rollout.engines_at_most=2"], r"engines_at_most=2: the run begins with 3; raise it"),
        (["rollout.engines_at_most=2"], r"started with the key of the run's own; name a file that holds it"),
        (
            ["rollout.engines_at_most=2", *APART, "weights/transport=cuda_ipc"],
            r"join a run with weights/transport=cuda_ipc",
        ),
        (["rollout.engines_at_least=1", "run.generate_only=true"], r"can leave a run with run\.generate_only=true"),
        (
            ["rollout.engines_at_least=1", "rollout.engine_groups={r: {role: prefill}, w: {role: decode}}"],
            r"can leave a run with rollout\.engine_groups",
        ),
        (
            ["rollout.engines=2", "rollout.engines_at_least=1", "cluster.device=cuda", "cluster.gpus_per_node=2"],
            r"can leave a run with cluster\.placement=colocated on GPUs",
        ),
        (["rollout.engines_at_most=2", "run.bitwise=true"], r"can join a run with run\.bitwise=true"),
        (["rollout.engines_at_most=2", "rollout.weights=fp8_block"], r"can join a run with rollout\.weights=fp8_block"),
        (
            ["rollout.engines_at_most=3", "rollout.engine_groups={r: {role: prefill}, w: {role: decode}}"],
            r"can join a run with rollout\.engine_groups",
        ),
        (["rollout.engines_at_least=0"], r"rollout\.engines_at_least=0"),
    ],
)
def test_what_no_engine_of_somebody_else_can_join_is_refused_by_name(overrides: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        check(compose(None, overrides))


def test_the_key_of_engines_that_cannot_come_is_never_read(joining: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"engine_key_file is only read with rollout\.engine_urls"):
        check(compose(None, joining[1:]))


SPARE = "rollout.engines_on_spare_machines=true"
SPREAD = ("cluster.ray_address=auto", "cluster.host=0.0.0.0", "weights/transport=broadcast")


def test_engines_start_on_spare_machines_only_where_others_can_join_the_ray_and_reach_them(joining: list[str]) -> None:
    given = [*joining, *SPREAD, SPARE]
    check(compose(None, given))
    for left_out, wrong in (
        (joining[0], "none may join; say how many there may be as rollout.engines_at_most"),
        (SPREAD[0], "no machine joins a Ray that the run starts for itself; name one as cluster.ray_address"),
        (SPREAD[1], "with cluster.host=127.0.0.1 nobody reaches engines on other machines; use 0.0.0.0"),
        (SPREAD[2], "other machines share no memory with the trainer; choose weights/transport=broadcast, or disk"),
    ):
        assert any(one.startswith(f"{SPARE}: {wrong}") for one in problems([one for one in given if one != left_out]))


def test_weights_come_to_spare_machines_any_way_but_through_memory(joining: list[str]) -> None:
    given = [*joining, *SPREAD[:2], SPARE]
    for transport in ("disk", "delta"):
        check(compose(None, [*given, f"weights/transport={transport}"]))
    check(compose(None, [*given, *APART]))  # by broadcast, as engines are apart
    (wrong,) = problems([*given, *APART, "weights/transport=shared_memory"])
    assert wrong.startswith(f"{SPARE}: other machines share no memory with the trainer; ")


def test_engines_on_spare_machines_ask_for_a_key_beside_engines_that_have_none(joining: list[str]) -> None:
    given = [joining[0], *SPREAD, SPARE, "rollout.engine_urls=[http://127.0.0.1:9]"]
    (wrong,) = problems(given)
    assert wrong.startswith(f"{SPARE}: engines there would ask nobody for a key; name a file that holds one as ")
    check(compose(None, [*given, joining[1]]))


def problems(given: list[str]) -> list[str]:
    """What is refused of a configuration."""
    with pytest.raises(ConfigError) as caught:
        check(compose(None, given))
    return caught.value.problems
