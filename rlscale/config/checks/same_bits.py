"""Can trainer and engines compute with the same bits (`run.bitwise`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.said_options import said_gpus
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.config.source_sampling import sampled_apart
from rlscale.families import FAMILIES
from rlscale.families.bitwise import why_not_bitwise
from rlscale.families.config_file import complete
from rlscale.families.served_form import WeightForm


def model_is_computed_alike(context: CheckContext) -> Iterator[str]:
    """By the same operations in the same order."""
    if not _asked(context) or context.architecture is None:
        return
    family = FAMILIES[str(context.architecture["model_type"])]
    if reason := why_not_bitwise(family, complete(context.architecture)):
        yield f"run.bitwise=true with a model of {family.model_type}: {reason}; leave run.bitwise out"
    if context.config.model.dtype is DType.float16:
        yield "run.bitwise=true with model.dtype=float16: this is done in float32 and bfloat16 only; use one of them"


def sums_have_one_order(context: CheckContext) -> Iterator[str]:
    """A sum over ranks or threads has another order than that of one engine."""
    if not _asked(context):
        return
    config = context.config
    for size in ("tensor", "context", "expert", "expert_tensor"):
        if (getattr(config.parallel, size) or 1) > 1:
            yield (
                f"run.bitwise=true with parallel.{size}={getattr(config.parallel, size)}: a sum over ranks has another "
                f"order than an engine's; use parallel.{size}=1 (parallel.data and parallel.pipeline may be larger)"
            )
    for key, gpus in said_gpus(config.rollout).items():
        if gpus > 1 and context.on_gpus:
            yield f"run.bitwise=true with {key}={gpus}: a sum over GPUs has another order than the trainer's; use 1"
    for key, threads in (
        ("trainer.threads", config.trainer.threads),
        ("rollout.threads_per_engine", config.rollout.threads_per_engine),
    ):
        if threads is not None and threads > 1:
            yield f"run.bitwise=true with {key}={threads}: a sum over threads has another order; leave it out, or use 1"


def tokens_are_made_one_by_one(context: CheckContext) -> Iterator[str]:
    """By the engine that read the prompt, as was tried."""
    rollout = context.config.rollout
    if _asked(context) and rollout.disaggregated:
        yield "run.bitwise=true: rollout.engine_groups with prefill and decode have not been tried; leave one out"
    if _asked(context) and rollout.speculation.algorithm is not Algorithm.none:
        yield "run.bitwise=true: rollout.speculation has not been tried with it; leave one out"


def weights_are_the_same(context: CheckContext) -> Iterator[str]:
    """What an engine holds is what the trainer computes with."""
    if not _asked(context):
        return
    config = context.config
    form = config.rollout.weights
    if form is not WeightForm.as_trained and not config.trainer.fake_quant:
        yield (
            f"run.bitwise=true with rollout.weights={form.value}: engines would hold other weights than the trainer; "
            "add trainer.fake_quant=true, or use rollout.weights=as_trained"
        )
    if form is not WeightForm.as_trained and context.experts:
        yield (
            f"run.bitwise=true with rollout.weights={form.value}: quantised experts are computed in another order; "
            "use rollout.weights=as_trained"
        )
    if config.model.lora is not None:
        yield (
            "run.bitwise=true with model.lora: engines compute with merged weights or by kernels of their own, the "
            "trainer with base and adapter apart; leave one of the two out"
        )
    if config.rollout.engine_urls:
        yield (
            "run.bitwise=true with rollout.engine_urls: engines that somebody else started compute as they were "
            "started; leave one of the two out"
        )


def tokens_are_drawn_from_all_words(context: CheckContext) -> Iterator[str]:
    """At one temperature."""
    if not _asked(context):
        return
    rollout = context.config.rollout
    named = {f"data.sources.{name}": own for name, own in sampled_apart(rollout, context.config.data).items()}
    for section, sampling in {"rollout": rollout, **named}.items():
        for key, off in (("top_p", 1.0), ("top_k", -1), ("min_p", 0.0), ("temperature", rollout.temperature)):
            if (value := getattr(sampling, key)) != off:
                yield (
                    f"run.bitwise=true with {section}.{key}={value:g}: log-probs have the same bits over the whole "
                    f"vocabulary and at one temperature only; use {off:g}"
                )


def _asked(context: CheckContext) -> bool:
    return context.config.run.bitwise and not context.supervised


BITWISE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    model_is_computed_alike,
    sums_have_one_order,
    tokens_are_made_one_by_one,
    weights_are_the_same,
    tokens_are_drawn_from_all_words,
)
