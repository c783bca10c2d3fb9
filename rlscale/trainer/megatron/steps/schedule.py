"""The learning rate of every step: Megatron's schedule, placed so that its end comes after the last step."""

from __future__ import annotations

from typing import Any

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from rlscale.config.schema.optim_config import OptimConfig


def build_schedule(optimizer: Any, optim: OptimConfig, total_steps: int) -> OptimizerParamScheduler:
    """The schedule of an optimizer (anything with torch's `param_groups`) over a run of `total_steps` steps.

    Steps count from 1. With `warmup_steps` = W the rate is lr n / W up to step W and lr at step P = max(W, 1); from
    there `schedule` leads to `min_lr` at step D + 1, where D is `decay_steps`, or the run's last step. So the first
    step has a rate above 0, `lr` is reached also without a warm-up, and the last step has a rate above `min_lr`.
    """
    peak = max(optim.warmup_steps, 1)
    last = max(optim.decay_steps or total_steps, peak)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        lr_warmup_steps=peak,
        lr_decay_steps=last + 1,
        lr_decay_style=optim.schedule.value,
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,  # a resumed run follows its configuration
    )
