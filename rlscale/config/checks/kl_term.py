"""Is the KL term read, and does it count."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.algo_config import CustomAdvantage, KLEstimator, KLPlacement


def kl_acts(context: CheckContext) -> Iterator[str]:
    """A KL setting that nothing reads, or a KL term that counts nothing."""
    if context.supervised:
        return
    kl = context.config.algo.kl
    if kl.placement is KLPlacement.none:
        return
    where = kl.placement.name
    if kl.coef == 0.0:
        yield f"algo.kl.placement={where} with algo.kl.coef=0 has no effect; raise it or use algo/kl=none"
    if kl.placement is KLPlacement.loss:
        if kl.chosen is KLEstimator.k1 and not kl.unbiased:
            yield (
                "algo.kl.estimator=k1 as a loss has zero expected gradient; use k2, k3 or low_var_kl, "
                "or algo.kl.unbiased=true"
            )
        return
    if not context.needs.advantage_reads_kl:
        yield from _not_in_the_reward(context)


def _not_in_the_reward(context: CheckContext) -> Iterator[str]:
    coef = context.config.algo.kl.coef
    if isinstance(context.config.algo.advantage, CustomAdvantage):
        yield (
            f"algo.kl.placement=reward with algo.kl.coef={coef:g}: algo/advantage=custom gets no KL term; use "
            "algo/kl=none, ask for algo.advantage.reads=[ref_logprobs] and give the coefficient to your function"
        )
        return
    yield (
        f"algo.kl.placement=reward with algo.kl.coef={coef:g}: algo/advantage={context.advantage} never reads a KL "
        "term in the reward; use algo/kl=loss, or algo/advantage=returns, baseline or gae"
    )


KL_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (kl_acts,)
