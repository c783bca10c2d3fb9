"""Do the optimizer's options, frozen parameters and overlapped communication fit each other and the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.subject import Subject
from rlscale.config.named_models import has_critic
from rlscale.config.optim_groups import group_problems
from rlscale.config.schema.optim import OptimConfig
from rlscale.config.schema.trainer import TrainerConfig


def optimizer_options_fit(subject: Subject) -> Iterator[str]:
    """Of the policy, and of a critic where it has its own."""
    config = subject.config
    yield from _problems(subject, config.optim, config.trainer, "")
    if has_critic(config.algo) and (config.critic.optim, config.critic.trainer) != (config.optim, config.trainer):
        ours = set(_problems(subject, config.optim, config.trainer, "critic."))
        for line in _problems(subject, config.critic.optim, config.critic.trainer, "critic."):
            if line not in ours:  # one that follows the policy's is said already
                yield line


def _problems(subject: Subject, optim: OptimConfig, trainer: TrainerConfig, prefix: str) -> Iterator[str]:
    yield from group_problems(optim.groups, f"{prefix}optim.groups", optim.weight_decay)
    yield from _on_host(subject, optim, trainer, prefix)
    yield from _overlap(trainer, prefix)
    if any(not pattern for pattern in trainer.frozen):
        yield f"{prefix}trainer.frozen: an entry is empty; give a pattern like 'model.embed_tokens.*', or leave it out"
    if optim.reset_every > subject.config.run.iterations:
        yield (
            f"{prefix}optim.reset_every={optim.reset_every} is never reached in run.iterations="
            f"{subject.config.run.iterations}; use less, or 0 for never"
        )


def _on_host(subject: Subject, optim: OptimConfig, trainer: TrainerConfig, prefix: str) -> Iterator[str]:
    if not optim.on_host:
        return
    if not subject.on_gpus:
        yield f"{prefix}optim.on_host=true: on the CPU the optimizer is there already; set it to false"
    elif not trainer.distributed_optimizer:
        yield f"{prefix}optim.on_host=true needs {prefix}trainer.distributed_optimizer=true (Megatron asks for it)"


def _overlap(trainer: TrainerConfig, prefix: str) -> Iterator[str]:
    """Megatron accepts these and then computes with old parameters, or reduces nothing earlier."""
    if not trainer.ddp.get("overlap_param_gather"):
        return
    key = f"{prefix}trainer.ddp.overlap_param_gather=true"
    if not trainer.distributed_optimizer:
        yield f"{key} needs {prefix}trainer.distributed_optimizer=true: without it no parameters are gathered"
    elif not trainer.ddp.get("overlap_grad_reduce"):
        yield f"{key} needs {prefix}trainer.ddp.overlap_grad_reduce=true (Megatron asks for it)"


OPTIMIZER_CHECKS: tuple[Callable[[Subject], Iterator[str]], ...] = (optimizer_options_fit,)
