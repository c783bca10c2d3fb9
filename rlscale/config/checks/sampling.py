"""Do rollout and evaluation make sense: staleness, sampling parameters, pass@k."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.rollout_config import OnSync
from rlscale.config.schema.trainer_config import RoutingReplay

IMPLEMENTED_STALENESS = 1


def staleness_is_possible(context: CheckContext) -> Iterator[str]:
    """Generating while training needs devices of its own for each."""
    rollout, cluster = context.config.rollout, context.config.cluster
    if rollout.max_staleness > IMPLEMENTED_STALENESS:
        yield (
            f"rollout.max_staleness={rollout.max_staleness}: this version goes up to {IMPLEMENTED_STALENESS} "
            "(rollout=one_step_off)"
        )
    elif rollout.max_staleness > 0 and cluster.placement is Placement.colocated:
        yield (
            f"rollout.max_staleness={rollout.max_staleness}: colocated engines cannot generate while the trainer "
            "works; use cluster.placement=disaggregated, or rollout.max_staleness=0"
        )


def syncs_are_possible(context: CheckContext) -> Iterator[str]:
    """What is kept across a sync is stale by one at least, needs engines of its own, and cannot all be replayed."""
    config = context.config
    rollout, kind = config.rollout, config.rollout.on_sync
    if context.supervised or kind is OnSync.wait:
        return
    if rollout.max_staleness == 0:
        yield (
            f"rollout.on_sync={kind.value}: a response that goes on with new weights has tokens of the old ones, which "
            "rollout.max_staleness=0 does not allow; use rollout.on_sync=wait, or a larger bound"
        )
    if kind.pause and config.cluster.placement is Placement.colocated:
        yield (
            f"rollout.on_sync={kind.value}: colocated engines give up their memory, and with it the requests in them; "
            "use rollout.on_sync=abort_and_resume, or cluster.placement=disaggregated"
        )
    if kind.pause and config.trainer.routing_replay is RoutingReplay.rollout:
        yield (
            f"rollout.on_sync={kind.value}: an engine that goes on with new weights forgets which experts the old ones "
            "chose, so trainer.routing_replay=rollout needs rollout.on_sync=abort_and_resume or wait"
        )


def samples_are_of_the_trained_distribution(context: CheckContext) -> Iterator[str]:
    """The trainer knows the full softmax alone: what top-p and top-k cut off is in no log-prob, ratio or metric."""
    rollout = context.config.rollout
    if context.supervised:
        return
    cut = [f"rollout.top_p={rollout.top_p:g}"] if rollout.top_p < 1 else []
    cut += [f"rollout.top_k={rollout.top_k}"] if rollout.top_k != -1 else []
    if not cut:
        if rollout.train_on_truncated_sampling:
            context.notes.append("rollout.train_on_truncated_sampling=true does nothing: top_p and top_k are off")
    elif not rollout.train_on_truncated_sampling:
        yield (
            f"{' and '.join(cut)}: samples would come from a truncated distribution, while trainer and engine give "
            "log-probs of the full one, so that gradient, ratios and KL are wrong and no metric shows it; use "
            "rollout.top_p=1 rollout.top_k=-1 (evaluation has eval.top_p and eval.top_k of its own), or accept it with "
            "rollout.train_on_truncated_sampling=true"
        )
    else:
        context.notes.append(
            f"{' and '.join(cut)}: trained log-probs are of the full softmax; mismatch_* and logprob_diff_* compare "
            "those on both sides and do not see what was cut off"
        )


def evaluation_is_possible(context: CheckContext) -> Iterator[str]:
    """Evaluation needs data. Where it is switched off, its settings stay as the recipe has them."""
    config = context.config
    if config.eval.enabled and config.eval.data is None:
        yield "eval.data: evaluation needs prompts; choose data@eval.data=<option>, or eval.enabled=false"


def pass_k_has_samples(context: CheckContext) -> Iterator[str]:
    """pass@k needs at least k different samples of a prompt."""
    evaluation = context.config.eval
    if not evaluation.enabled:
        return
    samples = evaluation.samples_per_prompt
    for k in evaluation.pass_k:
        if not 1 <= k <= samples:
            yield f"eval.pass_k={k}: must be from 1 to eval.samples_per_prompt={samples}"
    if len(set(evaluation.pass_k)) != len(evaluation.pass_k):
        yield f"eval.pass_k={evaluation.pass_k}: holds a number twice"
    if not evaluation.pass_k:
        yield "eval.pass_k=[]: name at least one k, for example [1]"
    if evaluation.temperature == 0 and samples > 1:
        yield f"eval.temperature=0 gives the same answer {samples} times; use eval.samples_per_prompt=1 or sample"


def prompts_fit_the_model(context: CheckContext) -> Iterator[str]:
    """Prompt and response together stay within the positions of the model."""
    rollout, evaluation = context.config.rollout, context.config.eval
    positions = context.size("max_position_embeddings")
    if positions is None:
        return
    longest = [("rollout.max_response_tokens", rollout.max_response_tokens)]
    if evaluation.enabled and evaluation.max_response_tokens is not None:
        longest.append(("eval.max_response_tokens", evaluation.max_response_tokens))
    for key, response in longest:
        if rollout.max_prompt_tokens + response > positions:
            yield (
                f"rollout.max_prompt_tokens={rollout.max_prompt_tokens} + {key}={response} is above the {positions} "
                f"positions of {context.config.model.name} (max_position_embeddings); lower them"
            )


def canary_fits_the_model(context: CheckContext) -> Iterator[str]:
    """The canary prompt stays within the positions of the model, or engine and trainer both fail on it."""
    tokens, positions = context.config.weights.canary_tokens, context.size("max_position_embeddings")
    if positions is not None and tokens > positions:
        yield (
            f"weights.canary_tokens={tokens} is above the {positions} positions of {context.config.model.name} "
            "(max_position_embeddings); lower it"
        )


SAMPLING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    staleness_is_possible,
    syncs_are_possible,
    samples_are_of_the_trained_distribution,
    evaluation_is_possible,
    pass_k_has_samples,
    prompts_fit_the_model,
    canary_fits_the_model,
)
