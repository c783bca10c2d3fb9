"""What the ranks of the pool run for the router's own losses. Called with (rank, world_size, address, port, ...)."""

from __future__ import annotations

from typing import Any

from scenarios import open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def router_logits(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, part: RankShard
) -> list[dict[str, Any]]:
    """Of each layer's router in a training pass: the type of its weight and logits, and how far the logits are from a
    float64 product of what it was given, beside how far those of a product in the weight's type are (relative)."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    found: list[dict[str, Any]] = []
    try:
        chunk = trainer._roster.trained("policy").model.bare[0]
        for layer in chunk.decoder.layers:
            router = layer.mlp.router

            def gating(given: Any, router: Any = router, compute: Any = router.gating) -> Any:
                logits = compute(given)
                exact = given.double() @ router.weight.double().T
                low = given @ router.weight.to(given.dtype).T
                scale = exact.abs().max()
                found.append(
                    {
                        "weight": str(router.weight.dtype),
                        "logits": str(logits.dtype),
                        "error": float((logits.double() - exact).abs().max() / scale),
                        "error_of_its_type": float((low.double() - exact).abs().max() / scale),
                    }
                )
                return logits

            router.gating = gating
        trainer.train_shard(part, 0)
        return found
    finally:
        trainer.close()
