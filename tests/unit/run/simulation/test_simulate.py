"""`simulate`: the real loop, service and buffer on simulated engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlscale.cli import main
from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.simulator_options import read_simulation
from rlscale.run.simulation.simulate import Simulated, simulate
from rlscale.run.simulation.simulated_session import SimulatedSession
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.simulator.simulated_fleet import SimulatedFleet

GPUS = ("cluster=multinode_disaggregated", "cluster.nodes=2", "cluster.rollout_nodes=1", "rollout.engines=4")
SMALL = (
    *("rollout.groups_per_iteration=8", "rollout.samples_per_group=4", "rollout.max_response_tokens=400"),
    *("rollout.max_concurrent=8", "rollout.sglang={}"),
)
ENGINES = (
    *("simulator.engines=4", "simulator.engine.slots=8", "simulator.iterations=4", "simulator.warm_up=1"),
    *("simulator.engine.decode_s=1", "simulator.engine.half_batch=1e8", "simulator.engine.prefill_tokens_per_s=1e9"),
    *("simulator.advice=false", "lengths=constant", "simulator.engine.lengths.median=100"),
)


def simulated(*words: str) -> Simulated:
    own = [word for word in (*ENGINES, *words) if word.startswith(("simulator", "lengths"))]
    config = compose(None, [*SMALL, *(word for word in words if word not in own)])
    return simulate(config, read_simulation(own, config))


def test_an_iteration_is_generation_plus_training_when_they_take_turns() -> None:
    found = simulated("simulator.training_s=50")
    # 32 samples in 32 slots, 100 steps of a second; then 50 s of training.
    assert found.iteration_s == pytest.approx(150, rel=0.01)
    assert found.ideal_s == pytest.approx(100, rel=0.01)
    assert found.trainer_idle == pytest.approx(2 / 3, rel=0.01)
    assert found.engines_idle == pytest.approx(1 / 3, rel=0.01)
    assert (dict(found.staleness), found.lost) == ({0: 4 * 32 * 100}, 0)
    assert found.length_ratio == 1


def test_with_a_bound_generation_goes_on_while_the_trainer_works() -> None:
    found = simulated("cluster.placement=disaggregated", "rollout.max_staleness=1", "simulator.training_s=50")
    assert found.iteration_s == pytest.approx(100, rel=0.03)
    assert found.engines_idle < 0.05
    assert set(found.staleness) == {1}


def test_training_takes_what_the_formula_says() -> None:
    assert simulated("simulator.training_tokens_per_s=64").train_s == pytest.approx(3200 / 64)
    assert simulated("simulator.training_share=0.25").train_s == pytest.approx(25, rel=0.01)


def test_rewards_and_syncs_take_their_time() -> None:
    found = simulated("simulator.training_s=0", "simulator.reward_s=7", "simulator.sync_s=5")
    assert found.iteration_s == pytest.approx(112, rel=0.01)


def test_a_simulation_repeats_itself() -> None:
    words = ("lengths=log_normal", "simulator.training_s=20", "simulator.engine.faults.lost=0.05")
    first, second = (simulated(*words) for _ in range(2))
    assert (first.iteration_s, first.staleness) == (second.iteration_s, second.staleness)


def test_dead_engines_are_mended_and_their_requests_made_again() -> None:
    found = simulated(
        *("simulator.training_s=10", "simulator.engine.faults.crashed=0.02", "rollout.max_failure_rate=1"),
        "simulator.engine.faults.restart_s=20",
    )
    assert found.restarts > 0
    assert found.lost > 0
    assert found.iterations == 4


def test_a_full_cache_is_reported() -> None:
    assert simulated("simulator.engine.cache_tokens=600", "simulator.training_s=0").preemptions > 0


def command(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    code = main(["simulate", *words])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_the_command_prints_what_it_found_and_what_would_help(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in ENGINES if word != "simulator.advice=false"]
    code, out, err = command(*SMALL, *words, "simulator.training_s=50", capsys=capsys)
    assert (code, err) == (0, "")
    assert out[0].startswith(
        "arithmetic: 4 engines of 8 slots, colocated, max_staleness 0, on_sync wait; lengths constant"
    )
    shown = {line[:16].strip(): line[17:] for line in out[2:]}
    assert shown["iteration"].startswith("2:30 min")
    assert shown["trainer idle"] == "66.7%"
    assert shown["staleness"] == "0: 100.0% of the trained tokens"
    assert shown["length ratio"].startswith("1.000")
    advice = out[out.index("what would help:") + 1 :]
    assert len(advice) == 1  # engines and slots are enough for a batch: only the trainer is in the way
    assert advice[0].startswith("  a trainer of twice the speed: 2:05 min per iteration (-17%)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulator.engine.slot=3"], "simulator.engine.slot: unknown key; did you mean simulator.engine.slots?"),
        (["simulator.engine.slots=many"], "simulator.engine.slots=many: must be an integer"),
        (["simulator.engine.slots=0"], "simulator.engine.slots=0: must be at least 1"),
        (["lengths=normal"], "lengths=normal: is neither a file with one length per line nor one of log_normal, "),
        (["simulator.prompt_tokens=500"], "simulator.prompt_tokens=500: is over rollout.max_prompt_tokens=16"),
        (["simulator.training_s=1", "simulator.training_tokens_per_s=2"], "both say how long training takes"),
        (["simulator.engine.faults.lost=0.7", "simulator.engine.faults.rubbish=0.7"], "the shares add up to 1.4"),
        (["recipe=arithmetic_sft"], "recipe=arithmetic_sft: is trained on data alone; there is no rollout to simulate"),
        (
            [f"rollout.engine_groups.{role}.role={role}" for role in ("prefill", "decode")],
            "rollout.engine_groups: simulated engines answer whole requests",
        ),
        (["--fast"], "simulate does not know '--fast'"),
        (["rollout.nothing=1"], "rollout.nothing: unknown key"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(*words, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("error:") == 1


def test_what_a_setting_costs_that_the_simulator_cannot_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    _, plain, _ = command(*SMALL, *ENGINES, capsys=capsys)
    _, told, _ = command(*SMALL, *ENGINES, "run.bitwise=true", capsys=capsys)
    (line,) = set(told[2:]) - set(plain[2:])
    assert line.startswith("not told         what run.bitwise=true costs or saves: give speeds measured with it")


def test_lengths_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("50\n" * 10)
    config = compose(None, list(SMALL))
    own = [word for word in ENGINES if not word.startswith("lengths")]
    found = simulate(config, read_simulation([*own, f"lengths={file}", "simulator.training_s=0"], config))
    assert found.iteration_s == pytest.approx(50, rel=0.01)


def test_without_a_median_responses_are_an_eighth_of_the_longest() -> None:
    config = compose(None, list(SMALL))
    simulation: Any = read_simulation([], config)
    assert simulation.engine.lengths.median == 50


MODES = ["wait", "abort_and_resume", "retract", "in_place"]


@pytest.fixture
def fleets(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedFleet]:
    """Those of the simulations of a test."""
    found: list[SimulatedFleet] = []
    made = SimulatedFleet.__init__

    def remembered(self: SimulatedFleet, *given: Any) -> None:
        made(self, *given)
        found.append(self)

    monkeypatch.setattr(SimulatedFleet, "__init__", remembered)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_no_update_meets_a_running_request_whatever_a_sync_does_to_those_under_way(
    mode: str, fleets: list[SimulatedFleet]
) -> None:
    words = ("cluster.placement=disaggregated", "rollout.max_staleness=1", f"rollout.on_sync={mode}")
    found = simulated(*words, "simulator.training_s=130", "lengths=log_normal", "simulator.engine.lengths.median=100")
    assert [engine.updates_under_load for engine in fleets[0].engines.values()] == [0, 0, 0, 0]
    assert found.iterations == 4


@pytest.mark.parametrize("mode", MODES)
def test_in_waves_no_engine_is_asked_in_its_update_and_the_others_generate_meanwhile(
    mode: str, fleets: list[SimulatedFleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long responses are under way at every sync, and an update takes longer than a token."""
    grown: list[list[int]] = []
    give = SimulatedSession._give_weights

    async def noted(session: SimulatedSession, urls: list[str]) -> None:
        others = [engine for url, engine in fleets[0].engines.items() if url not in urls]
        before = [await tokens_of(engine) for engine in others]
        await give(session, urls)
        if session._version > 0:
            grown.append([await tokens_of(engine) - then for engine, then in zip(others, before, strict=True)])

    monkeypatch.setattr(SimulatedSession, "_give_weights", noted)
    found = simulated(
        *("cluster.placement=disaggregated", "rollout.max_staleness=4", f"rollout.on_sync={mode}"),
        *("weights.max_engines_at_once=2", "weights/transport=disk", "rollout.engines=4"),
        *("simulator.training_s=60", "simulator.engine.update_s=5", "lengths=log_normal"),
        *("rollout.groups_per_iteration=48", "simulator.iterations=2"),
    )
    engines = fleets[0].engines.values()
    assert [engine.asked_in_updates for engine in engines] == [0, 0, 0, 0]
    assert [engine.updates_under_load for engine in engines] == [0, 0, 0, 0]
    assert len(grown) == 2 * found.iterations + 2  # two waves in each, also in the one that warms up
    assert all(min(tokens) > 0 for tokens in grown)
    assert found.lost == 0


async def tokens_of(engine: SimulatedEngine) -> int:
    await engine.call("/health")  # which brings it to the present moment
    return engine.tokens


def test_a_replay_has_nothing_to_simulate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\.replay=.*: a replay generates nothing"):
        simulated(f"rollout.replay={tmp_path}")


@pytest.mark.parametrize(
    ("stale", "bound", "low", "high"), [("mask", 4, 0.98, 1.02), ("wait", 8, 0.98, 1.02), ("drop", 4, 0.8, 0.9)]
)
def test_only_drop_prefers_short_responses_to_long_ones(stale: str, bound: int, low: float, high: float) -> None:
    found = simulated(
        *("cluster.placement=disaggregated", "rollout.on_sync=abort_and_resume", "rollout.router.policy=power_of_two"),
        *(f"rollout.max_staleness={bound}", f"rollout.stale={stale}", "simulator.training_share=1"),
        *("lengths=log_normal", "simulator.engine.lengths.median=20", "simulator.engine.lengths.cap=20"),
        *("simulator.iterations=30", "simulator.warm_up=10"),
    )
    assert low < found.length_ratio < high
