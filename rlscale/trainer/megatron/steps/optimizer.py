"""Megatron's optimizer and learning-rate schedule; a step whose gradients are not finite is skipped and counted."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch._dynamo
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.steps.grad_norms import clip, grad_norm, stepped_for
from rlscale.trainer.megatron.steps.loss_scale import OPTIONS, LossScale
from rlscale.trainer.megatron.steps.parameter_groups import overrides_of
from rlscale.trainer.megatron.steps.schedule import build_schedule
from rlscale.trainer.trainer_spec import TrainerSpec

_MOMENTS = {"exp_avg", "exp_avg_sq", "step"}
"""What Adam keeps of the steps so far, besides the parameters."""


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did."""

    grad_norm: float
    """Norm of all gradients before clipping; may be infinite or not a number."""
    lr: float
    """Learning rate of the step."""
    skipped: bool
    """Whether the weights were left alone because a gradient was not finite."""
    loss_scale: float | None = None
    """Factor of the loss in the step's passes, where one is looked for (float16)."""
    overflows: int = 0
    """How often the step's passes were made before, with a larger factor."""
    mtp_grad_norm: float | None = None
    """Norm of the gradients of a layer that predicts a token further; None where none is trained."""


@dataclass
class Optimizer:
    """The optimizer of a model. Build it with `build_optimizer`."""

    megatron: Any
    """Megatron's (chained) optimizer."""
    schedule: OptimizerParamScheduler
    """Megatron's learning-rate schedule; counts the steps."""
    clip_grad: float
    """Bound on the gradient norm; 0 for none."""
    scale: LossScale | None = None
    """Factor of the loss; None where none is looked for."""
    mtp: Container[Tensor] | None = None
    """What is stepped for the layer that predicts a token further, and clipped by itself; None: no such layer."""
    _overflows: int = 0

    @property
    def steps(self) -> int:
        """Steps taken so far, skipped ones included."""
        return int(self.schedule.num_steps)

    def zero_grad(self, model: Model) -> None:
        """Forget all gradients."""
        for chunk in model.parallel_chunks:
            chunk.zero_grad_buffer()
        self.megatron.zero_grad()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss times what the gradients are divided by before the step, on every rank the same."""
        scaled: Tensor = self.megatron.scale_loss(loss) if self.scale is None else self.scale.scale * loss
        return scaled

    def step(self) -> StepResult | None:
        """Clip the gradients and take a step; the same decision on every rank, as the norm is one of all ranks.

        None if gradients overflowed and the factor of the loss was halved: the step's passes are to be made again.
        """
        loss_scale = None if self.scale is None else self.scale.value
        overflow = self.megatron.prepare_grads()
        if self.scale is not None and self.scale.settle(overflow):
            self._overflows += 1
            return None
        overflows, self._overflows = self._overflows, 0
        self.schedule.step(1)
        lr = float(self.schedule.get_lr({}))  # that of parameters outside `optim.groups`, also on ranks without any
        norm, of_mtp = self._norms()
        if overflow or not math.isfinite(norm) or (of_mtp is not None and not math.isfinite(of_mtp)):
            return StepResult(norm, lr, True, loss_scale, overflows, of_mtp)
        if self.clip_grad > 0.0:
            clip(self.megatron, self._is_policys, self.clip_grad, norm)
            if of_mtp is not None:
                clip(self.megatron, self._is_mtps, self.clip_grad, of_mtp)
        success = self.megatron.step_with_ready_grads()
        return StepResult(norm, lr, not success, loss_scale, overflows, of_mtp)

    def _norms(self) -> tuple[float, float | None]:
        """Norm of the gradients but those of the layer apart, NaN if Megatron does not know it, and of that layer's."""
        if self.mtp is None:
            norm = self.megatron.get_grad_norm()
            return (float("nan") if norm is None else float(norm)), None
        return grad_norm(self.megatron, self._is_policys), grad_norm(self.megatron, self._is_mtps)

    def _is_mtps(self, parameter: Tensor) -> bool:
        return self.mtp is not None and parameter in self.mtp

    def _is_policys(self, parameter: Tensor) -> bool:
        return not self._is_mtps(parameter)

    def reset(self) -> None:
        """Forget the moments and their count of steps, as if no step had been made; the schedule goes on."""
        for chained in self.megatron.chained_optimizers:
            inner = getattr(chained, "optimizer", None)
            if inner is None:
                continue
            for state in inner.state.values():
                for name in _MOMENTS & state.keys():
                    state[name].zero_()
            for group in inner.param_groups:  # Transformer Engine's Adam counts here
                if "step" in group:
                    group["step"] = 0


_ON_HOST = {
    "optimizer_cpu_offload": True,
    "optimizer_offload_fraction": 1.0,
    "use_precision_aware_optimizer": True,  # whose way of handing gradients over the offloaded optimizer uses
    "overlap_cpu_optimizer_d2h_h2d": True,
}
"""Megatron's options for `optim.on_host`."""


def build_optimizer(model: Model, spec: TrainerSpec, section: str = "optim") -> Optimizer:
    """Megatron's Adam for a model, with the groups and the schedule of `optim`; `section` is what the user calls it.

    Collective. UserError for options that Megatron refuses, or groups that do not fit the model.
    """
    optim = spec.optim
    if optim.on_host and find_spec("transformer_engine") is None:
        raise UserError(
            f"{section}.on_host=true: Megatron needs Transformer Engine for it; install it, or set it to false"
        )
    options: dict[str, Any] = {
        "optimizer": "adam",
        "lr": optim.lr,
        "min_lr": optim.min_lr,
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.beta1,
        "adam_beta2": optim.beta2,
        "adam_eps": optim.eps,
        "clip_grad": optim.clip_grad,
        "bf16": model.config.bf16,
        "fp16": model.config.fp16,
        **OPTIONS,
        "params_dtype": model.config.params_dtype,
        "use_distributed_optimizer": spec.trainer.distributed_optimizer,
        **(_ON_HOST if optim.on_host else {}),
        **optim.megatron,
    }
    try:
        config = OptimizerConfig(**options)
        megatron = get_megatron_optimizer(config, model.parallel_chunks, overrides_of(model, optim, config, section))
        megatron = _with_parameters(megatron)
        scale = LossScale.of(megatron, config)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"Megatron refuses {section}: {error}") from error
    _make_state(megatron)
    schedule = build_schedule(megatron, optim, spec.total_steps)
    mtp = stepped_for(megatron, model.mtp_parameters()) if model.mtp else None
    return Optimizer(megatron, schedule, config.clip_grad, scale, mtp)


def _with_parameters(megatron: Any) -> Any:
    """Without the optimizers of kinds of parameters (experts, all others) that are frozen on every rank.

    Megatron keeps an empty one for them, which cannot be saved with the distributed optimizer.
    """
    used = [one for one in megatron.chained_optimizers if not getattr(one, "is_stub_optimizer", False)]
    return megatron if len(used) == len(megatron.chained_optimizers) else ChainedOptimizer(used)


def _make_state(megatron: Any) -> None:
    """Give every Adam its state before the first step, so that a checkpoint always holds the same tensors."""
    for chained in megatron.chained_optimizers:
        optimizer = getattr(chained, "optimizer", None)
        if optimizer is None:
            continue
        of_host = getattr(optimizer, "sub_optimizers", None)  # `optim.on_host`: one for each parameter
        for adam in [optimizer] if of_host is None else of_host:
            if isinstance(adam, torch.optim.Adam):  # AdamW is one
                _make_state_of_torch(adam)
            elif chained.init_state_fn is not None:  # Transformer Engine's, which counts its steps elsewhere
                chained.init_state_fn(adam, chained.config)
        if of_host is not None:
            optimizer._sync_sub_optimizers_state_to_hdo()


def _make_state_of_torch(adam: torch.optim.Adam) -> None:
    for group in adam.param_groups:
        for parameter in group["params"]:
            if not adam.state[parameter]:
                adam.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
