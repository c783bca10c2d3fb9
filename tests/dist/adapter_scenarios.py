"""What the ranks of the tests of adapters run; called as the functions of `scenarios` are."""

from __future__ import annotations

from typing import Any

import numpy as np
from scenarios import gathered, open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def train(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, iterations: list[list[RankShard]]
) -> dict[str, Any]:
    """Log-probs of policy and reference before and after training, gradients of the first step, and what is there at
    the end: adapters, merged weights, elements with gradients and in the optimizer.

    Before the first step each B, which a new adapter has zero, gets numbers: without them A has no gradient.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trained = trainer._roster.trained("policy")
        model, own = trained.model, trainer.data_parallel_rank()
        part = iterations[0][own]
        result: dict[str, Any] = {
            "base": gathered(trainer),
            "before": [trainer.logprobs(part, name) for name in ("policy", "reference")],
            "drawn": adapter_tensors(trainer),
            "metrics": [],
        }
        _give_b_numbers(trainer, result["drawn"])
        result["started"] = adapter_tensors(trainer)
        result["start"] = trainer.logprobs(part)
        for number, parts in enumerate(iterations):
            result["metrics"].append(trainer.train_shard(parts[own], number))
            if number == 0:
                result["gradients"] = adapter_tensors(trainer, gradients=True)
        groups = [g for one in trained.optimizer.megatron.chained_optimizers for g in one.optimizer.param_groups]
        result |= {
            "after": [trainer.logprobs(part, name) for name in ("policy", "reference")],
            "tensors": adapter_tensors(trainer),
            "weights": gathered(trainer),
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "optimized": sum(p.numel() for group in groups for p in group["params"]),
            "frozen": len(trainer._roster._frozen),
        }
        return result
    finally:
        trainer.close()


def _give_b_numbers(trainer: Any, drawn: dict[str, Any]) -> None:
    """The same in every layout, in the optimizer too."""
    import torch

    from rlscale.trainer.megatron.model.adapter_tensors import put_peft_tensors

    random = np.random.default_rng(5)
    values = {name: (0.1 * random.normal(size=x.shape) if ".lora_B." in name else x) for name, x in drawn.items()}
    trained = trainer._roster.trained("policy")
    tensors = {name: torch.from_numpy(x).float() for name, x in values.items()}
    assert put_peft_tensors(trained.model.adapters, trained.model.groups, tensors) == []
    trained.optimizer.megatron.reload_model_params()


def adapter_tensors(trainer: Any, gradients: bool = False) -> dict[str, Any]:
    """A and B (or their gradients) under peft's names. Collective."""
    from rlscale.trainer.megatron.model.adapter_tensors import peft_tensors

    model = trainer._roster.trained("policy").model
    of: Any = (lambda parameter: parameter.main_grad) if gradients else (lambda parameter: parameter.detach())
    tensors = peft_tensors(model.adapters, model.groups, of)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def memory(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> dict[str, int]:
    """Bytes that the policy takes on this rank: of linears of the base, of codes and scales, and of all else."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        model = trainer._roster.trained("policy").model
        linears = [p for c in model.bare for n, p in c.named_parameters() if n.endswith("weight") and ".linear_" in n]
        kept = [part for one in model.adapters.kept.values() for part in one.parts.values()]
        every = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
        of_linears = sum(parameter.untyped_storage().nbytes() for parameter in linears)
        codes = sum(part.untyped_storage().nbytes() for part in kept)
        return {"linears": of_linears, "codes": codes, "others": every - of_linears}
    finally:
        trainer.close()
