"""Do Megatron's options keep what is promised, and do they do anything; those of a mixture of experts: `moe.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.checks.refused_options import DDP, OFF, OPTIMIZER, TRANSFORMER, refused
from rlscale.config.composition.command_line_text import as_typed
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import Recompute

_OF_ALL = ("core_attn",)
_DENSE, _EXPERTS = ("mlp",), ("layernorm", "moe", "moe_act")
"""Modules that can be computed again. A dense layer's norms are parts of its matrices here, and cannot."""

_UNREAD = ("mlp", "layernorm", "moe")
"""Those that Megatron ignores in a model that has none; `moe_act` is an error there."""


def options_keep_the_promises(context: CheckContext) -> Iterator[str]:
    """Of the policy, and of a critic where it has its own."""
    yield from of_policy_and_critic(context.config, partial(_problems, context))


def _problems(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    given = sections.trainer.megatron
    yield from refused(given, TRANSFORMER, f"{prefix}trainer.megatron")
    yield from refused(sections.trainer.ddp, DDP, f"{prefix}trainer.ddp")
    yield from refused(sections.optim.megatron, OPTIMIZER, f"{prefix}optim.megatron")
    if given.get("recompute_modules") is not None:
        yield from _recomputed(context, sections, prefix)
    yield from _of_full_recompute(sections, prefix)
    yield from _of_transformer_engine(context, sections, prefix)
    yield from _of_context(context, sections, prefix)
    yield from _of_ddp(sections, prefix)
    yield from _of_optimizer(context, sections, prefix)
    yield from _of_float16(sections, prefix)


def _recomputed(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    """Modules to compute again: read at all, and there."""
    modules, config = sections.trainer.megatron["recompute_modules"], context.config
    key = f"{prefix}trainer.megatron.recompute_modules={as_typed(modules)}"
    if sections.trainer.recompute is not Recompute.selective:
        yield f"{key} is read only with {prefix}trainer.recompute=selective; set that, or leave it out"
        return
    experts = context.has_experts(sections.model)
    known = [*_OF_ALL, *(() if experts is True else _DENSE), *(() if experts is False else _EXPERTS)]
    if sections is not config and modules == config.trainer.megatron.get("recompute_modules"):
        known += [module for module in _UNREAD if module not in known]  # a critic follows a policy with other modules
    if not isinstance(modules, list) or not modules:
        yield f"{key}: must be a list of one or more of {', '.join(known)}"
        return
    unknown = [str(module) for module in modules if module not in known]
    if unknown:
        yield f"{key}: {sections.model.name} has no {', '.join(unknown)} to compute again; known are {', '.join(known)}"


def _of_full_recompute(sections: Sections, prefix: str) -> Iterator[str]:
    """How layers are computed again, where they are."""
    given = sections.trainer.megatron
    if sections.trainer.recompute is Recompute.full:
        return
    for name in ("recompute_method", "recompute_num_layers", "distribute_saved_activations"):
        if given.get(name) not in OFF:
            yield (
                f"{prefix}trainer.megatron.{name}={as_typed(given[name])} is read only with "
                f"{prefix}trainer.recompute=full; set that, or leave it out"
            )


_TRANSFORMER_ENGINE = ("cpu_offloading", "use_te_activation_func", "batch_invariant_mode", "apply_rope_fusion")
"""Options that its layers alone read; the others fail or ignore them."""
_OF_CPU_OFFLOADING = tuple(
    f"cpu_offloading_{name}" for name in ("num_layers", "activations", "weights", "double_buffering")
)


def _of_transformer_engine(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    """What is not available on the CPU, or for a model in float32."""
    given, key = sections.trainer.megatron, f"{prefix}trainer.megatron"
    if not context.on_gpus or sections.model.dtype is DType.float32:
        for name in (*_TRANSFORMER_ENGINE, "symmetric_ar_type"):
            if given.get(name) not in OFF:
                yield (
                    f"{key}.{name}={as_typed(given[name])} needs Transformer Engine, which trains models in 16 bits on "
                    "GPUs; leave it out"
                )
    if given.get("gradient_accumulation_fusion") not in OFF and not context.on_gpus:
        yield f"{key}.gradient_accumulation_fusion=true needs CUDA kernels, which a CPU does not have; leave it out"
    for name in _OF_CPU_OFFLOADING:
        if name in given and not given.get("cpu_offloading"):
            yield f"{key}.{name} is read only with cpu_offloading=true; leave it out"


_BETWEEN_CONTEXT_RANKS = ("p2p", "all_gather", "a2a")


def _of_context(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    """How context-parallel ranks exchange keys and values, where there are any."""
    kind = sections.trainer.megatron.get("cp_comm_type")
    if kind is None:
        return
    key = f"{prefix}trainer.megatron.cp_comm_type={as_typed(kind)}"
    if context.config.parallel.context == 1:
        yield f"{key} is read only with parallel.context above 1; leave it out"
    elif not context.on_gpus or sections.model.dtype is DType.float32:
        yield f"{key} needs Transformer Engine, which trains models in 16 bits on GPUs; leave it out"
    elif kind not in _BETWEEN_CONTEXT_RANKS:
        # The process groups of a2a+p2p are not made; of a list Megatron 0.16.1 reads past the end.
        yield f"{key}: must be one of {', '.join(_BETWEEN_CONTEXT_RANKS)}"


def _of_ddp(sections: Sections, prefix: str) -> Iterator[str]:
    given, key = sections.trainer.ddp, f"{prefix}trainer.ddp"
    if given.get("bucket_size") is not None and not given.get("overlap_grad_reduce"):
        yield (
            f"{key}.bucket_size={as_typed(given['bucket_size'])} is read only with {key}.overlap_grad_reduce=true; set "
            "that, or leave it out"
        )
    if given.get("pad_buckets_for_high_nccl_busbw") and not sections.trainer.distributed_optimizer:
        yield (
            f"{key}.pad_buckets_for_high_nccl_busbw=true is read only with {prefix}trainer.distributed_optimizer=true; "
            "set that, or leave it out"
        )


_ON_HOST = ("optimizer_offload_fraction", "overlap_cpu_optimizer_d2h_h2d", "pin_cpu_grads", "pin_cpu_params")


def _of_optimizer(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    given, key = sections.optim.megatron, f"{prefix}optim.megatron"
    for name in _ON_HOST:
        if name in given and not sections.optim.on_host:
            yield f"{key}.{name}={as_typed(given[name])} is read only with {prefix}optim.on_host=true; leave it out"
    aware = f"{key}.use_precision_aware_optimizer"
    if given.get("use_precision_aware_optimizer") in OFF:
        if "store_param_remainders" in given and not sections.optim.on_host:
            yield f"{key}.store_param_remainders is read only with {aware}=true; leave it out"
    elif not context.on_gpus:
        yield f"{aware}=true needs Transformer Engine, which does not run on the CPU; leave it out"
    elif not sections.trainer.distributed_optimizer:
        yield f"{aware}=true needs {prefix}trainer.distributed_optimizer=true (Megatron requires it)"


_SEARCH = ("initial_loss_scale", "min_loss_scale", "loss_scale_window")
"""How the factor of the loss is looked for."""


def _of_float16(sections: Sections, prefix: str) -> Iterator[str]:
    """The factor of the loss, where there is one."""
    given, key = sections.optim.megatron, f"{prefix}optim.megatron"
    for name in (*_SEARCH, "loss_scale"):
        if given.get(name) is None:
            continue
        if sections.model.dtype is not DType.float16:
            yield f"{key}.{name}={as_typed(given[name])} is read only with {prefix}model.dtype=float16; leave it out"
        elif name != "loss_scale" and given.get("loss_scale"):
            yield f"{key}.{name}: {key}.loss_scale fixes the factor of the loss; leave one of them out"
    initial, least = (given.get(name) for name in _SEARCH[:2])
    if isinstance(initial, int | float) and isinstance(least, int | float) and least > initial:
        yield f"{key}.min_loss_scale={as_typed(least)} is above initial_loss_scale={as_typed(initial)}; use less"


MEGATRON_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (options_keep_the_promises,)
