"""A model with the weights that it starts from: of a Hugging Face folder, or of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from rlscale.families.origin import check_origin
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.disk.adapter_folder import load_adapter_folder
from rlscale.trainer.megatron.disk.distributed_checkpoint import holds_checkpoint, load_base_of, load_weights_of
from rlscale.trainer.megatron.model.build import build_model
from rlscale.trainer.megatron.model.kept_base import keep_base
from rlscale.trainer.megatron.model.model import Model, Role
from rlscale.trainer.trainer_spec import TrainerSpec
from rlscale.weights.exported_mtp import look_at_kept
from rlscale.weights.load import load_weights, named


def build_loaded(
    spec: TrainerSpec, platform: Platform, role: Role = Role.policy, *, trained: bool | None = None
) -> Model:
    """`build_model`, with the weights of `spec.init_path`. Collective. UserError for what cannot be built or read."""
    model = build_model(spec, platform, role, trained=trained)
    load_folder(model, spec.init_path)
    if role is Role.policy and trained is not False and dist.get_rank() == 0:  # which writes exports
        look_at_kept(spec.model_path, model.weights.config, mtp=model.mtp)
    if model.adapters is not None and model.adapters.lora.base is not WeightForm.as_trained:
        keep_base(model, ServedForm(model.adapters.lora.base))
    if model.adapters is not None and (start := spec.adapter_path or model.adapters.lora.path) is not None:
        if holds_checkpoint(start):
            load_weights_of(start, model)
        else:
            load_adapter_folder(model, start)
    return model


@torch.no_grad()
def load_folder(model: Model, folder: str, *, mtp: bool = True) -> None:
    """Take the weights of a Hugging Face folder or of a checkpoint. UserError for those of another architecture.

    Without `mtp` a folder need not have the layer that predicts a token further, and its own is left.
    """
    with named(Path(folder)):
        check_origin(Path(folder), model.weights.config, model.weights.head)
    if holds_checkpoint(folder):
        load_base_of(folder, model)
        return
    load_weights(model.bare, folder, model.weights, model.groups, model.padded_vocabulary, mtp=model.mtp and mtp)
