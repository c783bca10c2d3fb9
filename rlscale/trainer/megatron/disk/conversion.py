"""A model from one form on disk to the other, on as many ranks as its layout has: weights alone, no gradients."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist

from rlscale.config.errors import UserError
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.disk.adapter_folder import AdapterFolder
from rlscale.trainer.megatron.disk.distributed_checkpoint import checkpoint_of
from rlscale.trainer.megatron.disk.export import critic_config, export_folder, put_in_place
from rlscale.trainer.megatron.disk.starting_weights import build_loaded
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.megatron.model.model import Model, Role
from rlscale.trainer.megatron.ranks import parallel
from rlscale.trainer.trainer_spec import Form, TrainerSpec
from rlscale.weights.exported_mtp import of_policy
from rlscale.weights.megatron_weights import MegatronWeights


def convert(
    spec: TrainerSpec,
    place: tuple[int, int, int],
    meet_at: tuple[str, int],
    target: Path,
    to: Form,
    *,
    critic: bool = False,
) -> None:
    """Read the weights that policy or critic starts from, of either form, and write them in the form `to`. Collective.

    `place`: rank, ranks and place on the machine; `meet_at`: rank 0's address and port. The target appears whole or not
    at all. UserError for what cannot be built or does not fit; UserError or OSError when the disk refuses.
    """
    rank, world_size, local_rank = place
    platform = Platform.of(spec.device, local_rank)
    parallel.join(spec, platform, rank, world_size, *meet_at)
    try:
        if critic:
            spec = spec.of_critic()
        model = build_loaded(spec, platform, Role.critic if critic else Role.policy, trained=False)
        if to is Form.checkpoint:
            _write_checkpoint(model, target)
        else:
            bucket = spec.weights.bucket_bytes(spec.device)
            weights = MegatronWeights(model.bare, model.weights, model.groups, bucket, model.adapters)
            hf = Architecture.read(spec.model_path).hf
            if critic:
                export_folder(weights, spec.beside, target, critic_config(hf))
            else:
                source, kept = of_policy(weights, spec.model_path, hf, mtp=model.mtp)
                adapter = AdapterFolder.of(model, spec.init_path) if model.adapters is not None else None
                export_folder(source, spec.beside, target, kept=kept, adapter=adapter)
    finally:
        parallel.leave()


def _write_checkpoint(model: Model, target: Path) -> None:
    """Under a partial name first."""
    partial = target.with_name(f".{target.name}-partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        if partial.is_symlink():  # which rmtree leaves, and files would be written where it leads
            partial.unlink()
    dist.barrier()
    try:
        writer = checkpoint_of(partial, model, copy=False)
        writer.write()
        writer.close()
    except UserError:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    failure: list[OSError | None] = [None]
    if dist.get_rank() == 0:
        try:
            put_in_place(partial, target)
        except OSError as error:
            failure = [error]
            shutil.rmtree(partial, ignore_errors=True)
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]
