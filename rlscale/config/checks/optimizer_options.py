"""Do the optimizer's options, frozen parameters and overlapped communication fit each other and the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.optim_groups import group_problems
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import TrainerConfig


def optimizer_options_fit(context: CheckContext) -> Iterator[str]:
    """Of the policy, and of a critic where it has its own."""
    yield from of_policy_and_critic(context.config, partial(_problems, context))


def _problems(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    optim, trainer = sections.optim, sections.trainer
    yield from group_problems(optim.groups, f"{prefix}optim.groups", optim.weight_decay)
    yield from _on_host(context, sections, prefix)
    yield from _overlap(trainer, prefix)
    if any(not pattern for pattern in trainer.frozen):
        yield f"{prefix}trainer.frozen: an entry is empty; give a pattern like 'model.embed_tokens.*', or leave it out"
    if optim.reset_every > context.config.run.iterations:
        yield (
            f"{prefix}optim.reset_every={optim.reset_every} is never reached in run.iterations="
            f"{context.config.run.iterations}; use less, or 0 for never"
        )


def _on_host(context: CheckContext, sections: Sections, prefix: str) -> Iterator[str]:
    if not sections.optim.on_host:
        return
    if not context.on_gpus:
        yield f"{prefix}optim.on_host=true: the optimizer is on the CPU already; set it to false"
    elif not sections.trainer.distributed_optimizer:
        yield f"{prefix}optim.on_host=true needs {prefix}trainer.distributed_optimizer=true (Megatron requires it)"
    elif sections.model.dtype is not DType.bfloat16:
        yield f"{prefix}optim.on_host=true needs {prefix}model.dtype=bfloat16: Megatron can resume it in no other type"


def _overlap(trainer: TrainerConfig, prefix: str) -> Iterator[str]:
    """Megatron accepts these and then computes with old parameters, or reduces nothing earlier."""
    if not trainer.ddp.get("overlap_param_gather"):
        return
    key = f"{prefix}trainer.ddp.overlap_param_gather=true"
    if not trainer.distributed_optimizer:
        yield f"{key} needs {prefix}trainer.distributed_optimizer=true: without it no parameters are gathered"
    elif not trainer.ddp.get("overlap_grad_reduce"):
        yield f"{key} needs {prefix}trainer.ddp.overlap_grad_reduce=true (Megatron requires it)"


OPTIMIZER_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (optimizer_options_fit,)
