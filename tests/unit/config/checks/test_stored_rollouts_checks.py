"""Half a run: what a replay and a run that only generates cannot be combined with."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError

REPLAY = ["rollout.replay=/stored", "eval.enabled=false"]
GENERATE = ["run.generate_only=true", "rollout.store=all"]


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["rollout.replay=/stored"], "there are no engines to evaluate with; set eval.enabled=false"),
        ([*REPLAY, "run.generate_only=true"], "leave nothing to do; choose one of them"),
        ([*REPLAY, "rollout.store=all"], "rollout.store=all would store again what rollout.replay reads"),
        ([*REPLAY, "rollout.engine_urls=[http://h:1]"], "rollout.engine_urls is not read with rollout.replay"),
        ([*REPLAY, "rollout._target_=a.B"], "rollout._target_=a.B is not used with rollout.replay"),
        (["run.generate_only=true"], "keeps nothing with rollout.store=none; set rollout.store=all"),
        ([*GENERATE, "loop=colocated"], "loop=colocated: with run.generate_only=true no step is made"),
        ([*GENERATE, "rollout.engine_urls=[http://h:1]"], "needs engines that hold the model's weights"),
        (["recipe=arithmetic_sft", "rollout.store=all"], "rollout.store=all: supervised training"),
        (["recipe=arithmetic_sft", "run.generate_only=true"], "run.generate_only=true: supervised training"),
        (["recipe=arithmetic_sft", "rollout.replay=/stored"], "rollout.replay=/stored: supervised training"),
    ],
)
def test_what_contradicts_is_one_line(overrides: list[str], wrong: str) -> None:
    recipe = overrides[0].removeprefix("recipe=") if overrides[0].startswith("recipe=") else None
    config = compose(recipe, overrides[1:] if recipe else overrides)
    with pytest.raises(ConfigError, match=wrong) as raised:
        check(config)
    assert len(raised.value.problems) == 1


def test_a_replay_needs_no_engines_and_generating_no_trainer() -> None:
    replay, generate = compose(None, REPLAY), compose(None, GENERATE)
    assert (Needs.of(replay).engines, Needs.of(replay).trains, Sizes.of(replay).engines) == (False, True, 0)
    assert (Needs.of(generate).engines, Needs.of(generate).trains, Sizes.of(generate).trainer_ranks) == (True, False, 0)
    check(replay)
    assert any(note.startswith("eval is not read with run.generate_only=true") for note in check(generate))
    assert "trainer: none, the run only generates" in Sizes.of(generate).lines()


@pytest.mark.parametrize("engines", [4, 8])
def test_engines_that_only_generate_have_no_trainer_to_cover_on_gpus(engines: int) -> None:
    on_gpus = ["cluster=node8", "model=qwen3_4b", "warm_start=null", f"rollout.engines={engines}"]
    notes = check(compose(None, [*GENERATE, *on_gpus]))
    assert any(note.startswith(f"the engines use {engines} of their 8 GPUs") for note in notes) == (engines < 8)
