"""Can engines serve the model in the form that `rollout.weights` asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.model_fits import architecture_is_known
from rlscale.config.derived.said_options import said_options
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.dtype import DType
from rlscale.config.target_key import TARGET
from rlscale.families.served_form import WeightForm

_ON_GPUS = (WeightForm.as_trained, WeightForm.fp8_block, WeightForm.int4)
"""What SGLang's kernels take an update of: `fp8_block` stays as it was loaded, and `int4` is laid out anew after each
update (`platform/sglang_repacked.py`). Of the other forms it has turned the codes into a layout of its own."""

_MARLIN_GROUPS = (32, 64, 128)
"""Columns for which its kernels of int4 have a scale."""

_PER_WORD = 8


def model_fits_the_form(context: CheckContext) -> Iterator[str]:
    """The sizes of the projections are multiples of what shares a scale."""
    form = context.config.rollout.served_form
    if form.kind is WeightForm.int4 and form.group % _PER_WORD:
        yield f"rollout.int4_group={form.group}: must be a multiple of {_PER_WORD}, as many codes are one word"
        return
    if context.architecture is None or list(architecture_is_known(context)):
        return
    ranks = max(context.config.rollout.engine_gpus) if context.on_gpus else 1
    if problems := list(form.problems(context.architecture, ranks)):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield f"rollout.weights={form.kind.value}: {problems[0]}{more}; choose another form, or as_trained"


def engines_update_the_form(context: CheckContext) -> Iterator[str]:
    """What engines are started with can be replaced by further weights, and compared with the trainer's."""
    config, kind = context.config, context.config.rollout.weights
    if kind is WeightForm.as_trained:
        return
    for key in said_options(config.rollout, "quantization"):
        yield f"{key} and rollout.weights={kind.value} are both given; leave out the first"
    if not context.on_gpus:
        transport = str(config.weights.transport.get(TARGET))
        apart = config.cluster.placement is Placement.disaggregated and transport.endswith("choice.auto")
        if kind is not WeightForm.int4 and (apart or ".broadcast." in transport):
            yield (
                f"rollout.weights={kind.value}: gloo, which broadcasts to engines of their own on the CPU, carries no "
                "FP8; use int4, or weights/transport=shared_memory or disk"
            )
        if config.rollout.quantised_activations and config.weights.canary_bound is None:
            yield (
                "rollout.quantised_activations=true needs weights.canary_bound: the trainer does not quantise "
                "activations, so its log-probs are not the engines'; set how far they may lie apart, such as 1.0"
            )
        return
    if kind not in _ON_GPUS:
        yield (
            f"rollout.weights={kind.value} is served on the CPU only: on GPUs SGLang lays its codes out anew, and an "
            "update would not be; use fp8_block or int4"
        )
        return
    if config.model.dtype is DType.float32:
        yield f"rollout.weights={kind.value}: SGLang's kernels of it take 16 bits; set model.dtype=bfloat16"
    if kind is WeightForm.int4 and config.rollout.int4_group not in _MARLIN_GROUPS:
        yield f"rollout.int4_group={config.rollout.int4_group}: on GPUs SGLang's kernels take 32, 64 or 128 columns"
    if kind is WeightForm.fp8_block and config.weights.canary_bound is None:
        yield (
            f"rollout.weights={kind.value} needs weights.canary_bound on GPUs: engines quantise activations there, "
            "too, so the trainer's log-probs are not theirs; set how far they may lie apart, such as 1.0"
        )


def rounding_is_the_engines(context: CheckContext) -> Iterator[str]:
    """What is trained as rounded must be served so, and stay as it is while a step's passes are made."""
    config, trainer = context.config, context.config.trainer
    if context.needs.critic and config.critic.trainer.fake_quant is not trainer.fake_quant:
        yield "critic.trainer.fake_quant is never read: no engine holds a critic; leave it out"
    if not trainer.fake_quant:
        return
    if config.rollout.weights is WeightForm.as_trained:
        yield (
            "trainer.fake_quant=true: rollout.weights=as_trained rounds nothing; choose the form that engines are to "
            "hold, such as rollout.weights=int4"
        )
    if trainer.ddp.get("overlap_param_gather"):
        yield (
            "trainer.fake_quant=true: trainer.ddp.overlap_param_gather=true brings weights while they are rounded; set "
            "it to false"
        )


SERVED_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    model_fits_the_form,
    engines_update_the_form,
    rounding_is_the_engines,
)
