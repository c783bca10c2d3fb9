"""The gradient of a step does not depend on how it is cut: float64, real ranks, every shipped algorithm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from rank_pool import RankPool
from split_scenario import VERSION, VOCABULARY, Case, Step, ToyPolicy, run_case, run_cases

from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    GspoLoss,
    KLConfig,
    KLEstimator,
    KLPlacement,
    ReductionConfig,
    ReductionKind,
)
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.packing import Plan, plan
from rlscale.data.batches.rank_shard import split
from rlscale.trainer.preparation import prepare
from tests.shipped import SHIPPED, shipped

REDUCTIONS = [kind for kind in ReductionKind if kind is not ReductionKind.custom]
MAX_RESPONSE_TOKENS = 20
RELATIVE = 1e-12
"""What float64 leaves of adding the same numbers in another order; the requirement is 1e-6."""

MIS = ("algo/correction=mis", "algo.correction.level=sequence", "algo.correction.normalise=true")
REJECTION = (
    "algo/correction=rejection",
    "algo.correction.rejection.level=geometric",
    "algo.correction.rejection.lower=0.9",
    "algo.correction.rejection.upper=1.1",
)
WORDS = 4
CENTERING = f"algo.correction.score_centering={WORDS}"
CORRECTIONS = {
    "mis of sequences, normalised": MIS,
    "mis masks, geometric": ("algo/correction=mis", "algo.correction.level=geometric", "algo.correction.action=mask"),
    "rejection": REJECTION,
    "everything": (*REJECTION, "algo.correction.weight=icepop", "algo.correction.normalise=true"),
    "tis": ("algo/correction=tis",),
    "opsm": ("algo/correction=opsm", "algo.correction.opsm_delta=0.01"),
    "bypass": ("algo/correction=bypass",),
    "score centering": ("algo/correction=score_centering", CENTERING),
}
CORRECTED = ("grpo", "gspo", "gspo_token", "cispo", "ppo")


@cache
def collected() -> Batch:
    """Three groups of 3, 5 and 4 samples of one to three segments; one sample has nothing trainable."""
    draw = np.random.default_rng(7)
    group_of_sample = np.repeat([0, 1, 2], [3, 5, 4])
    sample = np.repeat(np.arange(12), draw.integers(1, 4, 12))
    lengths = draw.integers(2, 12, len(sample))
    batch = Batch(np.concatenate([[0], np.cumsum(lengths)]))
    total = batch.tokens_total
    place = np.arange(total) - np.repeat(batch.offsets[:-1], lengths)
    mask = (draw.random(total) < 0.7) & (place > 0) & (np.repeat(sample, lengths) != 4)
    columns = {
        "tokens": draw.integers(0, VOCABULARY, total),
        "loss_mask": mask,
        "versions": np.where(mask, draw.integers(VERSION - 1, VERSION + 1, total), -1),
        "sample": sample,
        "step": np.zeros(len(sample)),
        "group": group_of_sample[sample],
        "reward": draw.normal(size=12)[sample],
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    current = ToyPolicy()(batch)[0].detach().numpy()
    for name, noise in (("old", 0.2), ("ref", 0.5), ("teacher", 0.7)):
        batch = batch.with_column(f"{name}_logprobs", current + noise * draw.normal(size=total))
    batch = batch.with_column("rollout_logprobs", batch.column("old_logprobs") + 0.3 * draw.normal(size=total))
    words = np.argsort(draw.random((total, VOCABULARY)))[:, :WORDS]
    batch = batch.with_column("sampler_words", words)
    batch = batch.with_column("sampler_logprobs", np.log(draw.dirichlet(np.ones(WORDS + 1), total)[:, :WORDS]))
    return batch.with_column("values", draw.normal(size=total))


def random_plan(batch: Batch, ranks: int, microbatches: int, empty: int) -> Plan:
    """Rows anywhere, whatever sample or group they belong to, and some micro-batches without any row."""
    order = np.random.default_rng(3).permutation(batch.rows)
    dealt = [np.array_split(rows, microbatches) for rows in np.array_split(order, ranks)]
    nothing = [np.zeros(0, np.int64)] * empty
    return Plan([[[*(np.sort(rows) for rows in own), *nothing]] for own in dealt], oversized=0)


def variants(name: str) -> dict[str, AlgoConfig]:
    """A shipped algorithm under every reduction, with and without whitening, and what else is worth cutting."""
    base = shipped(name)
    made = {
        f"{kind.name} whiten={whiten}": replace(base, reduction=ReductionConfig(kind=kind), whiten=whiten)
        for kind in REDUCTIONS
        for whiten in (False, True)
    }
    if name != "sft" and base.kl.placement is KLPlacement.none:
        kl = KLConfig(placement=KLPlacement.loss, estimator=KLEstimator.k3, coef=0.1, unbiased=True)
        made["KL and entropy in the loss"] = replace(base, kl=kl, entropy_coef=0.05)
    if isinstance(base.loss, GspoLoss):  # at its own bounds nearly every segment of this batch is clipped
        made["wide bounds"] = replace(base, loss=replace(base.loss, eps_low=0.3, eps_high=0.3))
    if name in CORRECTED:
        made |= {
            label: replace(base, correction=shipped("grpo", *overrides).correction)
            for label, overrides in CORRECTIONS.items()
        }
    return made


def prepared(config: AlgoConfig) -> Batch:
    return prepare(collected(), config, max_response_tokens=MAX_RESPONSE_TOKENS)[0]


def case(config: AlgoConfig, batch: Batch, division: Plan) -> Case:
    return Case(config, AlgoNeeds.of_algo(config).critic, split(batch, division))


def assert_same(step: Step, whole: Step, label: str) -> None:
    """Loss, gradients and metrics up to the rounding of float64."""
    scale = np.abs(whole.gradient).max()
    assert scale > 1e-4, label
    assert np.abs(step.gradient - whole.gradient).max() <= RELATIVE * scale, label
    assert step.loss == pytest.approx(whole.loss, rel=RELATIVE, abs=RELATIVE * scale), label
    assert step.metrics == pytest.approx(whole.metrics, rel=1e-10, abs=1e-13), label


def test_the_cut_separates_samples_of_a_group_and_segments_of_a_sample() -> None:
    """What the tests below rely on."""
    batch = collected()
    for cut in (random_plan(batch, 1, 4, 1), random_plan(batch, 2, 3, 1)):
        places: dict[str, dict[int, set]] = {"group": {}, "sample": {}}
        for rank, part in enumerate(split(batch, cut)):
            for number, rows in enumerate(part.steps[0]):
                for name, found in places.items():
                    for value in part.batch.column(name)[rows].tolist():
                        found.setdefault(value, set()).add((rank, number))
        for found in places.values():
            apart = [spots for spots in found.values() if len({rank for rank, _ in spots}) == len(cut.parts)]
            assert len([spots for spots in apart if len(spots) > 1]) >= 2


@pytest.mark.parametrize("name", SHIPPED)
def test_a_step_is_the_same_in_one_microbatch_and_in_many_on_two_ranks(name: str, pool: RankPool) -> None:
    batch = collected()
    whole = random_plan(batch, 1, 1, 0)
    cuts = {
        "several micro-batches": (random_plan(batch, 1, 4, 1), 1),
        "two ranks": (random_plan(batch, 2, 3, 1), 2),
        "two ranks by the real plan": (plan(batch.lengths, batch.column("step"), 2, 24), 2),
    }
    configs = variants(name)
    batches = {label: prepared(config) for label, config in configs.items()}
    wanted = {label: run_case(case(config, batches[label], whole), 0) for label, config in configs.items()}
    for ranks in (1, 2):
        labels, cases = [], []
        for cut, division in ((cut, division) for cut, (division, needed) in cuts.items() if needed == ranks):
            labels += [(cut, label) for label in configs]
            cases += [case(config, batches[label], division) for label, config in configs.items()]
        for answer in pool.run(run_cases, cases, world_size=ranks):
            for (cut, label), step in zip(labels, answer, strict=True):
                assert_same(step, wanted[label], f"{name}, {label}, {cut}")


def test_the_variants_differ_from_each_other() -> None:
    """Nothing above would notice an option that does nothing."""
    division = random_plan(collected(), 1, 1, 0)
    for name in ("grpo", "ppo"):
        steps = {
            label: run_case(case(config, prepared(config), division), 0) for label, config in variants(name).items()
        }
        gradients = [step.gradient for step in steps.values()]
        for number, one in enumerate(gradients):
            for other in gradients[number + 1 :]:
                assert np.abs(one - other).max() > 1e-6 * np.abs(one).max()


def test_leaving_segments_out_keeps_the_denominators() -> None:
    """The rest of a batch with rejected segments has the weights that it would have had with them."""
    with_all, _ = prepare(collected(), shipped("grpo"), max_response_tokens=MAX_RESPONSE_TOKENS)
    without, metrics = prepare(collected(), shipped("grpo", *REJECTION), max_response_tokens=MAX_RESPONSE_TOKENS)
    kept = without.column("loss_weight") > 0
    assert 0.1 < metrics["rejected_segments"] < 0.9
    np.testing.assert_array_equal(without.column("loss_weight")[kept], with_all.column("loss_weight")[kept])
    np.testing.assert_array_equal(without.column("advantages"), with_all.column("advantages"))
