"""The shipped algorithms have their sources' settings, and go with every correction and any number of steps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.groups import Groups
from rlscale.config.schema.algo_config import (
    AdvantageConfig,
    BaselineAdvantage,
    BroadcastAdvantage,
    CispoLoss,
    ClipLoss,
    GaeAdvantage,
    GspoLoss,
    GspoTokenLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
    LossConfig,
    NoAdvantage,
    OldLogprobs,
    OverlongConfig,
    ReductionConfig,
    ReductionKind,
    RefillConfig,
    ReturnsAdvantage,
    SapoLoss,
    SftLoss,
)
from rlscale.config.schema.correction_config import CorrectionConfig, Level, MisAction, RejectionConfig, WeightKind

Problems = Callable[..., list[str]]

OFF = KLConfig(placement=KLPlacement.none, estimator=None, coef=0.0, unbiased=False)
IN_REWARD = KLConfig(placement=KLPlacement.reward, estimator=None, coef=1e-3, unbiased=False)
CLIP = ClipLoss(eps_low=0.2, eps_high=0.2, dual_clip=None)
WHITE: dict[str, Any] = {"whiten": True}

Row = tuple[str, AdvantageConfig, KLConfig, LossConfig, str, dict[str, Any]]
SETTINGS: dict[str, Row] = {
    "grpo": ("group_mean_std", BroadcastAdvantage(), OFF, CLIP, "sample_mean", {}),
    "dr_grpo": ("group_mean", BroadcastAdvantage(), OFF, CLIP, "constant", {}),
    "dapo": (
        "group_mean_std",
        BroadcastAdvantage(),
        OFF,
        ClipLoss(eps_low=0.2, eps_high=0.28),
        "token_mean",
        {"overlong": OverlongConfig(penalty=1.0), "refill": RefillConfig(drop_equal=True)},
    ),
    "rloo": ("leave_one_out", BroadcastAdvantage(), OFF, CLIP, "sample_sum", {}),
    "gspo": ("group_mean_std", BroadcastAdvantage(), OFF, GspoLoss(eps_low=3e-4, eps_high=4e-4), "sample_mean", {}),
    "gspo_token": (
        "group_mean_std",
        BroadcastAdvantage(),
        OFF,
        GspoTokenLoss(eps_low=3e-4, eps_high=4e-4),
        "sample_mean",
        {},
    ),
    "cispo": ("group_mean_std", BroadcastAdvantage(), OFF, CispoLoss(eps_low=1.0, eps_high=4.0), "token_mean", {}),
    "sapo": (
        "group_mean_std",
        BroadcastAdvantage(),
        OFF,
        SapoLoss(tau_positive=1.0, tau_negative=1.05),
        "sample_mean",
        {},
    ),
    "reinforce_pp": ("raw", ReturnsAdvantage(gamma=1.0), IN_REWARD, CLIP, "token_mean", WHITE),
    "reinforce_pp_baseline": ("group_mean", BaselineAdvantage(), IN_REWARD, CLIP, "token_mean", WHITE),
    "ppo": ("raw", GaeAdvantage(gamma=1.0, lam=1.0), IN_REWARD, CLIP, "token_mean", WHITE),
    "opd": ("none", NoAdvantage(), OFF, CLIP, "token_mean", {"distil_coef": 1.0}),
    "sft": ("none", NoAdvantage(), OFF, SftLoss(), "token_mean", {}),
}
"""Score, advantage, KL, loss, reduction, and what else differs from the schema: each as its source has it."""

REST: dict[str, Any] = {
    "correction": CorrectionConfig(),
    "whiten": False,
    "distil_coef": 0.0,
    "overlong": OverlongConfig(),
    "refill": RefillConfig(),
    "entropy_coef": 0.0,
    "steps_per_iteration": 1,
    "epochs_per_iteration": 1,
}

TEACHER = {"opd": ["teacher.path=owner/teacher"]}

CORRECTIONS = (
    CorrectionConfig(),
    CorrectionConfig(weight=WeightKind.tis),
    CorrectionConfig(weight=WeightKind.tis, upper=3, normalise=True),
    CorrectionConfig(weight=WeightKind.tis, level=Level.sequence),
    CorrectionConfig(weight=WeightKind.tis, rejection=RejectionConfig(veto=1e-4)),
    CorrectionConfig(weight=WeightKind.icepop, lower=0.4),
    CorrectionConfig(weight=WeightKind.mis),
    CorrectionConfig(weight=WeightKind.mis, action=MisAction.mask, level=Level.geometric),
    CorrectionConfig(weight=WeightKind.mis, action=MisAction.clip, lower=0.1),
    CorrectionConfig(weight=WeightKind.custom, function={"_target_": "mine.fn"}),
    CorrectionConfig(rejection=RejectionConfig(level=Level.sequence, upper=2, veto=1e-4)),
    CorrectionConfig(opsm_delta=1e-3),
    CorrectionConfig(bypass=True),
    CorrectionConfig(bypass=True, opsm_delta=1e-3),
)
KLS = (
    KLConfig(),
    KLConfig(placement=KLPlacement.loss, coef=1e-3),
    KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k1, coef=1e-3, unbiased=True),
)


@pytest.mark.parametrize("name", Groups.of().options("algo"))
def test_an_algorithm_has_the_settings_of_its_source(plain_recipe: str, name: str) -> None:
    algo = compose(plain_recipe, [f"algo={name}"]).algo
    score, advantage, kl, loss, reduction, others = SETTINGS[name]
    assert (algo.name, algo.score.kind.name, algo.reduction.kind.name) == (name, score, reduction)
    assert type(algo.advantage) is type(advantage)
    assert algo.advantage == advantage
    assert algo.kl == kl
    assert algo.kl.chosen is (KLEstimator.k1 if kl is IN_REWARD else KLEstimator.k3)
    assert type(algo.loss) is type(loss)
    assert algo.loss == loss
    assert {key: getattr(algo, key) for key in REST} == {**REST, **others}
    assert algo.old_logprobs.name == "auto"


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "sft"])
def test_an_algorithm_goes_with_every_correction_kl_and_reduction(plain_recipe: str, name: str) -> None:
    several = ["algo.steps_per_iteration=2", "algo.epochs_per_iteration=2"]
    config = compose(plain_recipe, [f"algo={name}", *TEACHER.get(name, []), *several])
    reductions = [ReductionConfig(kind=kind) for kind in ReductionKind if kind is not ReductionKind.custom]
    changes: list[dict[str, Any]] = [{"correction": correction} for correction in CORRECTIONS]
    changes += [{"kl": kl} for kl in KLS]
    changes += [{"reduction": reduction} for reduction in reductions]
    changes += [{"entropy_coef": 0.01}, {"old_logprobs": OldLogprobs.always}]
    for change in changes:
        changed = dataclasses.replace(config, algo=dataclasses.replace(config.algo, **change))
        notes = check(changed)  # ConfigError says what is not taken
        assert [note for note in notes if not note.startswith("teacher.path=owner/teacher")] == []


def test_supervised_training_takes_several_steps(problems: Problems) -> None:
    several = ["algo.steps_per_iteration=2", "algo.epochs_per_iteration=2"]
    assert problems("algo=sft", "rollout.samples_per_group=1", *several) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo=reinforce_pp", "rollout.samples_per_group=1"],
        ["algo=ppo", "rollout.samples_per_group=1", "critic.optim.lr=1e-5", "critic.warmup_iterations=5"],
        ["algo=grpo", "algo.distil_coef=0.5", "teacher.path=owner/teacher"],
        ["algo=ppo", "algo.distil_coef=0.5", "teacher.path=owner/teacher"],
        ["algo/score=raw"],
        ["algo/score=group_mean", "algo/advantage=returns"],
        ["algo/loss=gspo_token", "algo/advantage=returns", "algo/kl=reward", "algo.whiten=true"],
        ["algo/advantage=gae"],
        ["algo.loss.dual_clip=3"],
        ["algo/loss=cispo", "algo.loss.eps_low=0", "algo.loss.eps_high=0"],
        ["algo/kl=loss", "algo.kl.estimator=k1", "algo.kl.unbiased=true"],
        ["algo.overlong.penalty=0.5", "algo.overlong.cache_tokens=1023"],
        ["algo=reinforce_pp_baseline", "algo/score=raw", "algo/advantage=returns", "rollout.samples_per_group=1"],
        ["algo=dapo", "algo/score=raw", "algo.refill.drop_equal=false", "rollout.samples_per_group=1"],
        ["algo=dapo", "rollout.max_response_tokens=2"],
        ["algo=opd", "teacher.recipe=arithmetic_teacher", "reward=none"],
        ["algo/correction=rejection", "algo.correction.rejection.level=null"],
        ["algo/correction=rejection", "algo.correction.rejection={level: token, lower: 0.5}"],
        ["algo/correction=rejection", "algo.correction.rejection={level: token, lower: 0, upper: 2}"],
        ["algo/correction=mis", "algo.correction.action=mask", "algo.correction.lower=0"],
        ["algo/advantage=custom", "algo.advantage.function._target_=a.b", "algo.advantage.reads=[values,old_logprobs]"],
        ["algo=opd", "algo/loss=gspo", "algo.whiten=true", "teacher.recipe=arithmetic_teacher"],
    ],
    ids=" ".join,
)
def test_a_sensible_combination_passes(problems: Problems, overrides: list[str]) -> None:
    assert problems(*overrides) == []


DOCS = Path(__file__).parents[3] / "docs"


def test_every_shipped_algorithm_has_a_row_in_the_documentation() -> None:
    text = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("| `algo=` |")[2].partition("\n\n")[0], re.MULTILINE)
    assert sorted(rows) == Groups.of().options("algo")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_measurement_of_the_documentation_is_left_open(page: Path) -> None:
    assert re.findall(r"@\w+@", page.read_text(encoding="utf-8")) == []
