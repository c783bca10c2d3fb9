"""What the ranks of the pool run. Every function is called with (rank, world_size, address, port, ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def open_trainer(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, moves: bool | None = None
) -> Any:
    """A started trainer; `moves`: whether its models take turns."""
    from rlscale.platform.device import Platform

    Platform.of(spec.device).install_megatron()
    from rlscale.trainer.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(spec, rank, world_size, moves=moves)
    trainer.start(address, port)
    return trainer


def gathered(trainer: Any, gradients: bool = False, model: str = "policy") -> dict[str, np.ndarray]:
    """All weights (or the gradients that the last step left) under their Hugging Face names. Collective."""
    import torch

    source = trainer._roster.trained(model).weights()
    if gradients:
        source._parameters = {
            name: getattr(parameter, "main_grad", torch.zeros_like(parameter))  # a buffer has none
            for name, parameter in source._parameters.items()
        }
    return {
        # A clone first: torch cannot give memory up that NumPy has seen.
        name: tensor.detach().float().clone().numpy()
        for bucket in source.buckets(0)
        for name, tensor in bucket.named
    }


def train(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    with_gradients: bool = True,
) -> dict[str, Any]:
    """Train on the parts of each iteration; metrics, gradients after the first iteration, weights after the last.

    Gradients, which are float32, can only be gathered from several stages or tensor-parallel ranks if weights are too.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        metrics, gradients = [], {}
        for number, parts in enumerate(iterations):
            metrics.append(trainer.train_shard(parts[trainer.data_parallel_rank()], number))
            if number == 0 and with_gradients and not spec.trainer.distributed_optimizer:
                gradients = gathered(trainer, gradients=True)
        return {"metrics": metrics, "gradients": gradients, "weights": gathered(trainer)}
    finally:
        trainer.close()


def logprobs(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard]
) -> np.ndarray | None:
    """Log-probs of the rank's part before any step, None where the rank hands out none."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        column: np.ndarray | None = trainer.logprobs(parts[trainer.data_parallel_rank()])
        return column
    finally:
        trainer.close()


def train_and_save_halfway(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    folder: str,
    meanwhile: bool = False,
    exported: str | None = None,
) -> dict[str, Any]:
    """Train on all iterations, with a checkpoint after the first half: weights and last metrics.

    `meanwhile`: a copy is written while training goes on, and becomes whole only after the last iteration.
    `exported`: a folder for the trained policy, whose log-probs of the first iteration are given, too.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        for number, parts in enumerate(iterations):
            if number == len(iterations) // 2:
                (trainer.begin_save if meanwhile else trainer.save)(folder)
            metrics = trainer.train_shard(parts[trainer.data_parallel_rank()], number)
        if meanwhile:
            trainer.finish_save()
        result = {"weights": gathered(trainer), "metrics": metrics}
        if exported is not None:
            trainer.export(exported)
            result["logprobs"] = trainer.logprobs(iterations[0][trainer.data_parallel_rank()])
        return result
    finally:
        trainer.close()


def resume(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    spec: TrainerSpec,
    iterations: list[list[RankShard]],
    folder: str,
) -> dict[str, Any]:
    """Load a checkpoint and train on: weights, last metrics, and the steps that the checkpoint had."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.load(folder)
        steps, metrics = trainer.steps, {}
        for number, parts in enumerate(iterations):
            metrics = trainer.train_shard(parts[trainer.data_parallel_rank()], number)
        return {"weights": gathered(trainer), "metrics": metrics, "steps": steps}
    finally:
        trainer.close()


def threads(rank: int, world_size: int, address: str, port: int) -> int:
    """How many threads the rank has, before it does anything."""
    return psutil.Process().num_threads()


def whole_column(parts: list[RankShard], batch: Batch, columns: list[np.ndarray | None]) -> np.ndarray:
    """Columns of the parts put together in the order of the batch's rows."""
    together = np.zeros(batch.tokens_total, np.float32)
    for part, column in zip(parts, [c for c in columns if c is not None], strict=True):
        for local, row in enumerate(part.row_ids):
            values = column[part.batch.offsets[local] : part.batch.offsets[local + 1]]
            together[batch.offsets[row] : batch.offsets[row + 1]] = values
    return together


def passes(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> dict[str, Any]:
    """The same first step without and with a pass for the old log-probs (learning rate 0 in between)."""
    from dataclasses import replace

    from training_data import divide, make_batch

    (part,) = divide(make_batch(spec.algo), 1)
    trainer = open_trainer(rank, world_size, address, port, replace(spec, optim=replace(spec.optim, lr=0.0)))
    try:
        return {"skipped": trainer.train_shard(part, 0), "forced": trainer.train_shard(part, 0, force_old=True)}
    finally:
        trainer.close()


def reference(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> dict[str, Any]:
    """Log-probs of policy and reference before and after training."""
    from training_data import divide, make_batch

    (part,) = divide(make_batch(spec.algo), 1)
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        before = trainer.logprobs(part)
        trainer.train_shard(part, 0)
        after, kept = trainer.logprobs(part), trainer.logprobs(part, "reference")
        return {"policy_before": before, "policy_after": after, "reference_after": kept}
    finally:
        trainer.close()


def train_and_export(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], folder: str
) -> np.ndarray | None:
    """Train one iteration, export, and give the log-probs of the trained policy."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        part = parts[trainer.data_parallel_rank()]
        trainer.train_shard(part, 0)
        trainer.export(folder)
        column: np.ndarray | None = trainer.logprobs(part)
        return column
    finally:
        trainer.close()


def offload(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> dict[str, Any]:
    """Three steps straight, and three with the state moved away and back after each (also on the CPU)."""
    from training_data import divide, make_batch

    from rlscale.platform.ports import free_port
    from rlscale.trainer.megatron.ranks import parallel

    (part,) = divide(make_batch(spec.algo), 1)
    results: dict[str, Any] = {}
    for name in ("straight", "offloaded"):
        trainer = open_trainer(rank, world_size, address, free_port("127.0.0.1"), spec)
        for version in range(3):
            trainer.train_shard(part, version)
            if name == "offloaded":
                trainer._roster.trained("policy").offload.sleep()
                parameters = trainer._roster.trained("policy").model.parameters()
                results["bytes_asleep"] = sum(p.untyped_storage().size() for p in parameters)
                trainer._roster.trained("policy").offload.wake()
        results[name] = gathered(trainer)
        parallel.leave()
    return results


COMPARED = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    *("layernorm_epsilon", "normalization", "gated_linear_unit", "add_bias_linear", "add_qkv_bias", "qk_layernorm"),
    *("num_moe_experts", "moe_router_topk", "moe_ffn_hidden_size", "moe_router_score_function"),
    *("moe_router_pre_softmax", "multi_latent_attention", "q_lora_rank"),
    *("kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim", "moe_router_topk_scaling_factor"),
)
"""Options of Megatron's TransformerConfig that follow from the architecture."""

UNREAD: dict[str, Callable[[Any], bool]] = {
    "kv_channels": lambda config: config.multi_latent_attention,
    "moe_router_pre_softmax": lambda config: config.moe_router_score_function == "sigmoid",
}
"""Where Megatron does not read such an option, by its configuration."""


def mapping_of_mbridge(rank: int, world_size: int, address: str, port: int, spec: TrainerSpec) -> dict[str, Any] | None:
    """Our weight map and Megatron configuration beside mbridge's, an independent implementation of both.

    Of the configuration what is read with it; None for a family that mbridge does not know.
    """
    import mbridge.models.deepseek_v3
    import mbridge.models.glm4moe
    import mbridge.models.llama
    import mbridge.models.qwen2
    import mbridge.models.qwen3
    import mbridge.models.qwen3moe  # noqa: F401 - (each registers itself)
    from mbridge.core.bridge import _MODEL_REGISTRY
    from megatron.core.transformer import MLATransformerConfig
    from transformers import AutoConfig

    hf_config = AutoConfig.from_pretrained(spec.model_path)
    if hf_config.model_type not in _MODEL_REGISTRY:
        return None
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        family = _MODEL_REGISTRY[hf_config.model_type]
        hf_config.rope_theta = hf_config.rope_parameters["rope_theta"]  # where it was before transformers 5

        def of_this_megatron(self: Any, **options: Any) -> Any:
            """The options of mbridge 0.15 as Megatron 0.16 calls them."""
            if issubclass(self.TransformerConfigClass, MLATransformerConfig):
                options["original_max_position_embeddings"] = options.pop("max_position_embeddings")
            return family._build_base_config(self, **options)

        own_table = dict(family._DIRECT_MAPPING)  # it changes the class's for tied models
        own = {"_DIRECT_MAPPING": own_table, "_build_base_config": of_this_megatron}
        bridge = type("Bridge", (family,), own)(hf_config)
        ours, theirs, differences = trainer._roster.trained("policy").model.weights, bridge, []
        for name, parameter in trainer.weights()._parameters.items():
            tensors = dict(ours.to_hf(name, parameter.detach()))
            names, values = theirs._weight_to_hf_format(name, parameter.detach())
            same = list(tensors) == list(names) and all(
                (tensors[n] == v).all() for n, v in zip(names, values, strict=True)
            )
            if not same:
                differences.append(name)
        config = trainer._roster.trained("policy").model.config
        compared = [key for key in COMPARED if key not in UNREAD or not UNREAD[key](config)]
        values = {key: (getattr(config, key, None), getattr(bridge.config, key, None)) for key in compared}
        # Of balancing we ask nothing, mbridge as in pretraining.
        assert config.num_moe_experts is None or config.moe_router_load_balancing_type == "none"
        return {"weights": differences, "config": {key: pair for key, pair in values.items() if pair[0] != pair[1]}}
    finally:
        trainer.close()
