"""Speculation (`rollout.speculation`): is there a draft, does it fit the policy, and are tokens still the policy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.said_options import said_options
from rlscale.config.derived.source_sampling import sampled_apart
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.rollout_config import OnSync
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.config.schema.trainer_config import Mtp, RoutingReplay
from rlscale.families import FAMILIES
from rlscale.families.served_form import WeightForm

_KEY = "rollout.speculation"
_THRESHOLDS = ("speculative_accept_threshold_single", "speculative_accept_threshold_acc")


def cpu_samples_nothing(context: CheckContext) -> Iterator[str]:
    """SGLang's verification on the CPU takes the likeliest token, at whichever temperature."""
    algorithm = context.config.rollout.speculation.algorithm
    if algorithm is Algorithm.none or context.on_gpus:
        return
    yield (
        f"{_KEY}.algorithm={algorithm.value}: on the CPU SGLang verifies drafts greedily (eagle_sample in "
        "speculative/eagle_utils.py), so tokens would not be drawn with the probabilities that it tells of them, and "
        "it does not start without sgl_kernel (copy_all_layer_kv_cache_cpu); set it to none, or use GPUs"
    )


def draft_is_there(context: CheckContext) -> Iterator[str]:
    """The model's own layers, or a folder."""
    config, speculation = context.config, context.config.rollout.speculation
    algorithm, begin = speculation.algorithm, f"{_KEY}.algorithm={speculation.algorithm.value}"
    if algorithm.has_draft and speculation.draft is None:
        yield f"{begin} needs a draft; name its Hugging Face folder as {_KEY}.draft"
    if speculation.draft is not None and algorithm in (Algorithm.mtp, Algorithm.ngram):
        yield f"{_KEY}.draft={speculation.draft} is not read with {begin}; leave it out"
    if algorithm is not Algorithm.mtp:
        return
    if config.model.path is None:
        yield f"{begin}: a model that is made (model.create) has no layer that predicts further tokens; choose another"
    elif context.architecture is not None and (reason := _why_no_layer(context.architecture)):
        yield f"{begin}: {reason}; choose another algorithm"


def _why_no_layer(architecture: Any) -> str | None:
    family = FAMILIES[str(architecture["model_type"])]
    if family.kept is not None:  # a module of its own, of which config.json says nothing
        return None
    if not family.mtp:
        return f"{family.model_type} has no layer that predicts further tokens"
    if not (layers := architecture.get("num_nextn_predict_layers")):
        return f"num_nextn_predict_layers={layers} says that the model has no layer that predicts further tokens"
    return None


def draft_fits(context: CheckContext) -> Iterator[str]:
    """The draft speaks the policy's words, and a head reads what the policy's layers make."""
    speculation, ours = context.config.rollout.speculation, context.architecture
    if not speculation.algorithm.has_draft or speculation.draft is None or ours is None:
        return
    try:
        theirs = read_architecture(ModelConfig(name="draft", path=speculation.draft))
    except UserError as error:
        yield f"{_KEY}.draft: {error}"
        return
    if theirs is None:
        context.notes.append(f"{_KEY}.draft={speculation.draft} is not downloaded yet: it is checked when it is")
        return
    wrong = [("vocab_size", ours.get("vocab_size"), theirs.get("vocab_size"))]
    if speculation.algorithm is not Algorithm.standalone:
        reads = theirs.get("target_hidden_size") or theirs.get("hidden_size")
        wrong.append(("hidden_size", ours.get("hidden_size"), reads))
    for name, own, of_draft in wrong:
        if own != of_draft:
            yield f"{_KEY}.draft={speculation.draft}: its {name} is {of_draft}, and the policy's {own}; name another"


def numbers_agree(context: CheckContext) -> Iterator[str]:
    """SGLang chooses all of them or none, and a chain of one branch has a token more than steps."""
    one = context.config.rollout.speculation
    given = {name: getattr(one, name) for name in ("steps", "topk", "draft_tokens")}
    named = [name for name, value in given.items() if value is not None]
    if one.algorithm in (Algorithm.none, Algorithm.ngram):
        return
    if named and len(named) < len(given):
        missing = next(name for name in given if name not in named)
        yield f"{_KEY}.{named[0]} is given without {_KEY}.{missing}: give all of steps, topk and draft_tokens, or none"
    elif one.topk == 1 and one.steps is not None and one.draft_tokens != one.steps + 1:
        yield (
            f"{_KEY}.draft_tokens={one.draft_tokens}: with topk=1 the policy verifies steps + 1 = {one.steps + 1} "
            "tokens; set it to that"
        )


def tokens_stay_the_policys(context: CheckContext) -> Iterator[str]:
    """What is told of a token is what it was drawn with."""
    config, rollout = context.config, context.config.rollout
    if rollout.speculation.algorithm is Algorithm.none:
        return
    begin = f"{_KEY}.algorithm={rollout.speculation.algorithm.value}:"
    for name in _THRESHOLDS:
        for key, given in said_options(rollout, name).items():
            if given != 1.0:
                yield f"{key}={given}: accepts tokens that the policy would not; leave it out"
    sampled = (rollout, *sampled_apart(rollout, config.data).values())
    if not context.supervised and any(one.top_p < 1 or one.top_k != -1 or one.min_p > 0 for one in sampled):
        yield (
            f"{begin} SGLang does not say then which words tokens were drawn from, which rollout.top_p, top_k and "
            "min_p (also a source's) need; leave these out"
        )
    if config.trainer.routing_replay is RoutingReplay.rollout:
        yield f"{begin} trainer.routing_replay=rollout has not been tried with it; use recorded or none"
    if rollout.on_sync in (OnSync.retract, OnSync.in_place):
        kept = rollout.on_sync.value
        yield f"{begin} rollout.on_sync={kept} has not been tried with it; use wait or abort_and_resume"
    if rollout.engine_urls:
        yield f"{begin} engines of rollout.engine_urls have the options that they were started with; leave one out"
    if rollout.disaggregated:
        yield f"{begin} rollout.engine_groups with prefill and decode have not been tried with it; use algorithm=none"


def weights_reach_the_policy_alone(context: CheckContext) -> Iterator[str]:
    """SGLang gives an update to target and draft by a bucket, to both by a folder, and to the target by a broadcast."""
    config, rollout = context.config, context.config.rollout
    if (algorithm := rollout.speculation.algorithm) in (Algorithm.none, Algorithm.ngram):
        return
    begin, transport = f"{_KEY}.algorithm={algorithm.value}:", str(config.weights.transport.get(TARGET, ""))
    if ".disk." in transport or ".delta." in transport:
        yield f"{begin} from a folder SGLang would load the draft, too, which is not in it; use weights/transport=auto"
    trained = algorithm is Algorithm.mtp and config.trainer.mtp is Mtp.trained
    apart = config.cluster.placement is Placement.disaggregated
    if trained and (apart or ".broadcast." in transport):
        yield (
            f"{begin} trainer.mtp=trained: SGLang gives what is broadcast to the model alone, and the layer would stay "
            "as it was; use cluster.placement=colocated, or trainer.mtp=frozen"
        )
    if rollout.weights is not WeightForm.as_trained:
        yield f"{begin} rollout.weights={rollout.weights.value}: the draft is not in that form; use as_trained"
    if config.serves_adapters:
        yield f"{begin} weights.lora=adapter has not been tried with it; use weights.lora=merged"


SPECULATION_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    cpu_samples_nothing,
    draft_is_there,
    draft_fits,
    numbers_agree,
    tokens_stay_the_policys,
    weights_reach_the_policy_alone,
)
