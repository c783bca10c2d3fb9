"""What the checks of a configuration know of the mathematics, which they may not import, is what the trainer does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.algo import corrections
from rlscale.config.checks.mismatch_correction import BOUNDS
from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import AlgoNeeds, Moment
from rlscale.config.schema.correction_config import WeightKind
from rlscale.trainer.objective import Objective

PLAIN = Path(__file__).parents[2] / "fixtures" / "recipes" / "plain.yaml"
TWO_STEPS = "algo.steps_per_iteration=2"
BYPASS = "algo/correction=bypass"
CORRECTION = "algo.correction"

ALGORITHMS = [
    [f"algo={name}"]
    for name in ("grpo", "dr_grpo", "gspo", "sapo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "ppo", "sft")
] + [
    ["algo.steps_per_iteration=2"],
    ["algo.epochs_per_iteration=2"],
    ["algo.old_logprobs=always"],
    ["algo.old_logprobs=behaviour"],
    [BYPASS],
    [BYPASS, TWO_STEPS],
    [BYPASS, "algo=ppo"],
    ["algo/kl=loss"],
    ["algo.distil_coef=0.5", "teacher.path=a/b"],
    ["algo/correction=tis"],
    ["algo/correction=tis", f"{CORRECTION}.normalise=true"],
    ["algo/correction=mis", f"{CORRECTION}.level=sequence"],
    ["algo/correction=mis", "algo=gspo"],
    [f"{CORRECTION}.rejection.veto=1e-4"],
    [f"{CORRECTION}.rejection.level=token", f"{CORRECTION}.rejection.upper=2"],
    ["algo/advantage=custom", "algo.advantage.function._target_=a.b", "algo.advantage.reads=[old_logprobs]"],
    ["algo/advantage=custom", "algo.advantage.function._target_=a.b", "algo.advantage.reads=[ref_logprobs]"],
]


@pytest.mark.parametrize("overrides", ALGORITHMS, ids=" ".join)
def test_the_checks_know_as_well_as_the_trainer_when_the_pass_for_old_logprobs_is_made(
    overrides: list[str],
) -> None:
    algo = compose(str(PLAIN), overrides).algo
    needs = AlgoNeeds.of_algo(algo)
    before = [one.column for one in needs.passes_at(Moment.batch)]
    assert needs.makes("old_logprobs") is (Objective(algo).needs_old or "old_logprobs" in before)


@pytest.mark.parametrize("kind", [WeightKind.tis, WeightKind.icepop, WeightKind.mis])
@pytest.mark.parametrize("upper", [None, 4.0])
def test_the_checks_know_the_default_bounds(kind: WeightKind, upper: float | None) -> None:
    """The checks may not import the mathematics, so they hold the default bounds once more."""
    lower, high = BOUNDS[kind]
    high = high if upper is None else upper
    expected = (1 / high if lower is None else lower, high)
    assert corrections.bounds(kind.value, "mask" if kind is WeightKind.mis else "truncate", None, upper) == expected
