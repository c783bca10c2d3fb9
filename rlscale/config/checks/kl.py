"""Is the KL term read, and does it count."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.subject import Subject
from rlscale.config.named_models import READ_KL
from rlscale.config.schema.algo import CustomAdvantage, KLConfig, KLEstimator, KLPlacement


def kl_acts(subject: Subject) -> Iterator[str]:
    """A KL setting that nothing reads, or a KL term that counts nothing."""
    if subject.supervised:
        return
    kl = subject.config.algo.kl
    if kl.placement is KLPlacement.none:
        yield from _unread(kl)
        return
    where = kl.placement.name
    if kl.coef == 0.0:
        yield f"algo.kl.placement={where} with algo.kl.coef=0 counts nothing; raise it or use algo/kl=none"
    if kl.placement is KLPlacement.loss:
        if kl.chosen is KLEstimator.k1 and not kl.unbiased:
            yield (
                "algo.kl.estimator=k1 as a loss has zero expected gradient; use k2, k3 or low_var_kl, "
                "or algo.kl.unbiased=true"
            )
        return
    if kl.unbiased:
        yield (
            "algo.kl.unbiased=true is never read with algo.kl.placement=reward, because a reward has no gradient; "
            "set it to false, or use algo/kl=loss"
        )
    if not isinstance(subject.config.algo.advantage, READ_KL):
        yield from _not_in_the_reward(subject)


def _unread(kl: KLConfig) -> Iterator[str]:
    given = []
    if kl.coef != 0.0:
        given.append(f"algo.kl.coef={kl.coef:g}")
    if kl.unbiased:
        given.append("algo.kl.unbiased=true")
    if kl.estimator is not None:
        given.append(f"algo.kl.estimator={kl.estimator.name}")
    for text in given:
        yield f"{text} is never read, because algo.kl.placement=none; choose algo/kl=loss"


def _not_in_the_reward(subject: Subject) -> Iterator[str]:
    coef = subject.config.algo.kl.coef
    if isinstance(subject.config.algo.advantage, CustomAdvantage):
        yield (
            f"algo.kl.placement=reward with algo.kl.coef={coef:g}: algo/advantage=custom gets no KL term; use "
            "algo/kl=none, ask for algo.advantage.reads=[ref_logprobs] and give the coefficient to your function"
        )
        return
    yield (
        f"algo.kl.placement=reward with algo.kl.coef={coef:g}: algo/advantage={subject.advantage} never reads a KL "
        "term in the reward; use algo/kl=loss, or algo/advantage=returns, baseline or gae"
    )


KL_CHECKS: tuple[Callable[[Subject], Iterator[str]], ...] = (kl_acts,)
