"""Do rollout and evaluation make sense: staleness, sampling parameters, pass@k."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.data_sections import training_sections
from rlscale.config.derived.eval_sets import eval_sets
from rlscale.config.derived.source_sampling import OWN_SAMPLING, own_sampling, sampled_apart
from rlscale.config.schema import Config
from rlscale.config.schema.algo_config import OldLogprobs
from rlscale.config.schema.cluster_config import Device, Placement
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.config.schema.data_config import MixtureData
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.rollout_config import History, OnSync, RolloutConfig, Stale
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.families import reach_of
from rlscale.families.config_file import problems


def staleness_is_possible(context: CheckContext) -> Iterator[str]:
    """Generating while training needs devices of its own for each; engines that share them can go on with responses."""
    rollout, cluster = context.config.rollout, context.config.cluster
    if rollout.max_staleness == 0:
        return
    bound = f"rollout.max_staleness={rollout.max_staleness}"
    if cluster.placement is Placement.colocated and rollout.over_sampling == 1:
        yield (
            f"{bound}: colocated engines cannot generate while the trainer works; use cluster.placement=disaggregated, "
            "or rollout=partial, which goes on with unfinished responses after the sync, or rollout.max_staleness=0"
        )
    if rollout.stale is Stale.wait and rollout.over_sampling > rollout.max_staleness + 1:
        yield (
            f"rollout.over_sampling={rollout.over_sampling:g} with rollout.stale=wait: of that many batches begun at "
            f"once, only {bound} + 1 can leave in time; lower it to {rollout.max_staleness + 1}, or use "
            "rollout.stale=mask"
        )
    algo = context.config.algo
    if algo.correction == CorrectionConfig() and algo.old_logprobs is not OldLogprobs.behaviour:
        context.notes.append(
            f"{bound} without a correction: ratio and clip do not know that tokens were sampled by older weights; "
            "algo.correction.bypass=true lets them, algo/correction=tis weighs the tokens"
        )
    if rollout.stale is Stale.drop:
        context.notes.append(
            "rollout.stale=drop: groups that take long are thrown away, so what is trained on is shorter than what is "
            "generated, in every iteration; watch length_ratio, or use rollout.stale=mask"
        )
    if rollout.over_sampling > 1 and rollout.on_sync is OnSync.wait:
        context.notes.append(
            f"rollout.over_sampling={rollout.over_sampling:g} with rollout.on_sync=wait: every sync waits for the "
            "longest response; rollout.on_sync=abort_and_resume goes on with it afterwards"
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
    """What changes logits before a token is drawn must be known to the trainer, which knows temperature and support."""
    config = context.config
    rollout = config.rollout
    if context.supervised:
        return
    for name, off in (("presence_penalty", 0), ("frequency_penalty", 0), ("repetition_penalty", 1)):
        if (value := getattr(rollout, name)) != off:
            yield (
                f"rollout.{name}={value:g}: tokens would be drawn from logits that depend on the tokens before, while "
                "the trainer's log-probs are of the model's own, so that gradient, ratios and KL are wrong; set it to "
                f"{off} (evaluation has eval.{name})"
            )
    if rollout.min_response_tokens > 0:
        yield (
            f"rollout.min_response_tokens={rollout.min_response_tokens}: until then no end token is drawn, which "
            "the trainer's log-probs do not know; set it to 0 (evaluation has "
            "eval.min_response_tokens)"
        )


def engines_can_sample_so(context: CheckContext) -> Iterator[str]:
    """What an engine does not do, or not on the CPU, and what a response that is cut in two would miss."""
    config = context.config
    trained = [] if context.supervised else _sampled(config)
    for section, sampling, own in [*trained, *_evaluated(context)]:
        if "min_p" in own and sampling.min_p > 0 and config.cluster.device is Device.cpu:
            yield (
                f"{section}.min_p={sampling.min_p:g}: SGLang's sampler on the CPU cannot use it together with a seed, "
                f"which every request has; set it to 0, or use {section}.top_p"
            )
        if own & {"ignore_eos", "stop_token_ids"} and sampling.ignore_eos and sampling.stop_token_ids:
            yield (
                f"{section}.stop_token_ids={list(sampling.stop_token_ids)} with {section}.ignore_eos=true: SGLang ends "
                "at no token then, these included; leave one of the two out"
            )
    for section, sampling, own in trained:
        if "stop" in own and sampling.stop and config.rollout.on_sync is OnSync.abort_and_resume:
            yield (
                f"{section}.stop with rollout.on_sync=abort_and_resume: a text that a sync cuts in two would not be "
                f"seen; use {section}.stop_token_ids, or another rollout.on_sync"
            )


_Sampled = tuple[str, RolloutConfig | EvalConfig, set[str]]
"""A section, what is sampled by it, and the keys that it says itself."""


def _sampled(config: Config) -> list[_Sampled]:
    """The rollout, and the sources of a mixture that are sampled otherwise."""
    found: list[_Sampled] = [("rollout", config.rollout, set(OWN_SAMPLING))]
    sources = config.data.sources if isinstance(config.data, MixtureData) else {}
    for name, sampling in sampled_apart(config.rollout, config.data).items():
        found.append((f"data.sources.{name}", sampling, set(own_sampling(sources[name]))))
    return found


def _evaluated(context: CheckContext) -> list[_Sampled]:
    """The evaluation sets."""
    sets = context.config.eval.sets
    found: list[_Sampled] = []
    for section, sampling in _measured(context):
        one = sets.get(section.removeprefix("eval.sets."))
        own = {name for name in OWN_SAMPLING if one is None or getattr(one, name) is not None}
        found.append((section, sampling, own))
    return found


def evaluation_is_possible(context: CheckContext) -> Iterator[str]:
    """Evaluation needs data. Where it is switched off, its settings stay as the recipe has them."""
    config = context.config
    if config.eval.enabled and config.eval.data is None and not config.eval.sets:
        yield "eval.data: evaluation needs prompts; choose data@eval.data=<option>, or eval.enabled=false"


def pass_k_has_samples(context: CheckContext) -> Iterator[str]:
    """pass@k needs at least k different samples of a prompt."""
    for key, evaluation in _measured(context):
        samples = evaluation.samples_per_prompt
        for k in evaluation.pass_k:
            if not 1 <= k <= samples:
                yield f"{key}.pass_k={k}: must be from 1 to {key}.samples_per_prompt={samples}"
        if len(set(evaluation.pass_k)) != len(evaluation.pass_k):
            yield f"{key}.pass_k={evaluation.pass_k}: holds a number twice"
        if not evaluation.pass_k:
            yield f"{key}.pass_k=[]: name at least one k, for example [1]"
        if evaluation.temperature == 0 and samples > 1:
            yield f"{key}.temperature=0 gives the same answer {samples} times; use {key}.samples_per_prompt=1 or sample"


def _measured(context: CheckContext) -> Iterator[tuple[str, EvalConfig]]:
    """What every evaluation set is measured with, by the section of its keys."""
    evaluation = context.config.eval
    if evaluation.enabled:
        # A set is measured with the values of `eval` that it does not replace: those are told there, once.
        yield "eval", evaluation
        for one in eval_sets(evaluation).values() if evaluation.data is not None or evaluation.sets else ():
            same = dataclasses.replace(one.config, data=evaluation.data, sets=evaluation.sets) == evaluation
            if one.name and not same:
                yield one.section, one.config


def prompts_fit_the_model(context: CheckContext) -> Iterator[str]:
    """Prompt and response together stay within the positions of the model."""
    positions = context.size("max_position_embeddings")
    for key, tokens in _longest_sequences(context):
        if positions is not None and tokens > positions:
            yield (
                f"{key} is above the {positions} positions of {context.config.model.name} (max_position_embeddings); "
                "lower them"
            )


def attention_sees_all_tokens(context: CheckContext) -> Iterator[str]:
    """Of training, evaluation and the canary: attention is computed to all tokens of a sequence."""
    canary = context.config.weights.canary_tokens
    yield from _within_reach(context, (*_longest_sequences(context), (f"weights.canary_tokens={canary}", canary)))


def attention_sees_all_trained_tokens(context: CheckContext) -> Iterator[str]:
    """The same for a model besides the policy, which is given nothing but what is trained on."""
    yield from _within_reach(context, [next(_longest_sequences(context))])


def _within_reach(context: CheckContext, sequences: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Windows and choices of tokens are attention to all of them as long as they hold all of them."""
    if context.architecture is None or any(problems(context.architecture)):
        return
    name, reach = context.config.model.name, reach_of(context.architecture)
    for key, tokens in sequences:
        if reach is not None and tokens > reach.tokens:
            yield (
                f"{key} is above the {reach.tokens} tokens that the attention of {name} sees at most ({reach.key}); "
                "longer sequences are not supported, lower this"
            )


def _longest_sequences(context: CheckContext) -> Iterator[tuple[str, int]]:
    """The longest prompt and response of training, and of each evaluation that has its own: in words, and in tokens."""
    rollout = context.config.rollout
    longest = [("rollout.max_response_tokens", rollout.max_response_tokens)]
    longest += [
        (f"{key}.max_response_tokens", evaluation.max_response_tokens)
        for key, evaluation in _measured(context)
        if evaluation.max_response_tokens is not None
    ]
    for key, response in longest:
        words = f"rollout.max_prompt_tokens={rollout.max_prompt_tokens} + {key}={response}"
        yield words, rollout.max_prompt_tokens + response


def canary_fits_the_model(context: CheckContext) -> Iterator[str]:
    """The canary prompt stays within the positions of the model, or engine and trainer both fail on it."""
    tokens, positions = context.config.weights.canary_tokens, context.size("max_position_embeddings")
    if positions is not None and tokens > positions:
        yield (
            f"weights.canary_tokens={tokens} is above the {positions} positions of {context.config.model.name} "
            "(max_position_embeddings); lower it"
        )


def turns_are_possible(context: CheckContext) -> Iterator[str]:
    """What is said of turns is read: an agent brings its own history and time, and a template has to be there."""
    rollout, agent = context.config.rollout, context.config.agent
    if context.supervised:
        return
    rendered = rollout.history is History.template
    if agent._target_ is not None or agent.command is not None:
        if rendered:
            yield ("rollout.history=template is not supported with agents, which bring their history; leave it out")
        if rollout.max_episode_s is not None:
            given = f"rollout.max_episode_s={rollout.max_episode_s:g}"
            yield f"{given} is not read with agents; agent.timeout_s bounds them"
        return
    for key, data in training_sections(context.config).items():
        if rendered and not data.apply_chat_template:
            yield (
                f"rollout.history=template: {key}.apply_chat_template=false leaves no template to write it; set that "
                "to true, or rollout.history=sampled"
            )


SAMPLING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    staleness_is_possible,
    syncs_are_possible,
    turns_are_possible,
    samples_are_of_the_trained_distribution,
    engines_can_sample_so,
    evaluation_is_possible,
    pass_k_has_samples,
    prompts_fit_the_model,
    attention_sees_all_tokens,
    canary_fits_the_model,
)
