"""What the ranks run for the tests of the optimizer: called with (rank, world_size, address, port, ...)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from scenarios import gathered, open_trainer

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import Form, TrainerSpec


def _named(policy: Any) -> dict[str, Any]:
    """This rank's parameters by the first of their Hugging Face names."""
    from rlscale.weights.parameters import named_parameters

    named = named_parameters(policy.model.bare, policy.model.groups.expert)
    return {policy.model.weights.hf_names(name)[0]: parameter for name, parameter in named}


def train_frozen(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard]
) -> dict[str, Any]:
    """Weights before and after two iterations, and how many numbers are trained and kept for it on this rank."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy = trainer._roster.trained("policy")
        before = gathered(trainer)
        for version in range(2):
            trainer.train_shard(parts[trainer.data_parallel_rank()], version)
        held = [b.params for c in policy.model.parallel_chunks for b in (*c.buffers, *c.expert_parallel_buffers)]
        optimizers = [chained.optimizer for chained in policy.optimizer.megatron.chained_optimizers]
        moments = [s["exp_avg"] for o in optimizers if o is not None for s in o.state.values()]
        return {
            "before": before,
            "after": gathered(trainer),
            "trained": sum(p.numel() for p in policy.model.parameters() if p.requires_grad),
            "with_buffers": sum(p.numel() for params in held for p in params),
            "in_the_optimizer": sum(moment.numel() for moment in moments),
        }
    finally:
        trainer.close()


def gradients(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard]
) -> dict[str, np.ndarray]:
    """Gradients of a step, of the parameters that have one; those that Megatron keeps together by all their names."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        trainer.train_shard(parts[0], 0)
        policy = trainer._roster.trained("policy")
        from rlscale.weights.parameters import named_parameters

        found = {}
        for name, parameter in named_parameters(policy.model.bare, policy.model.groups.expert):
            if parameter.requires_grad:
                found.update(policy.model.weights.to_hf(name, parameter.main_grad))
        return {name: gradient.clone().numpy() for name, gradient in found.items()}
    finally:
        trainer.close()


def rates(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], iterations: int
) -> list[tuple[float, dict[str, tuple[float, float]]]]:
    """For each iteration of one step: `lr` as reported, and (lr, weight decay) of each of the rank's parameters."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy, found = trainer._roster.trained("policy"), []
        name_of = {id(parameter): name for name, parameter in _named(policy).items()}
        for version in range(iterations):
            lr = trainer.train_shard(parts[trainer.data_parallel_rank()], version)["lr"]
            groups = policy.optimizer.megatron.param_groups
            of = {name_of[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
            found.append((lr, of))
        return found
    finally:
        trainer.close()


def moves(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], iterations: int
) -> list[float]:
    """How far the weights of the output projection that moved at all moved in each iteration, on average."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        found = []
        for version in range(iterations):
            before = gathered(trainer)["lm_head.weight"]
            trainer.train_shard(parts[0], version)
            change = np.abs(gathered(trainer)["lm_head.weight"] - before)
            found.append(float(change[change > 0].mean()))
        return found
    finally:
        trainer.close()


def steps_taken(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, iterations: list[list[RankShard]]
) -> list[dict[str, Any]]:
    """Of iterations of one step: the weights before, the gradients that the optimizer was given, the weights after
    and the metrics."""
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy, given = trainer._roster.trained("policy"), {}
        parameters, make_step = _named(policy), policy.optimizer.step

        def spy() -> Any:
            given.update({name: p.main_grad.clone().numpy() for name, p in parameters.items()})
            return make_step()

        def weights() -> dict[str, np.ndarray]:
            return {name: p.detach().clone().numpy() for name, p in parameters.items()}

        policy.optimizer.step = spy
        found = []
        for version, parts in enumerate(iterations):
            before = weights()
            metrics = trainer.train_shard(parts[trainer.data_parallel_rank()], version)
            found.append({"before": before, "given": dict(given), "after": weights(), "metrics": metrics})
        return found
    finally:
        trainer.close()


def break_a_gradient(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], broken: int
) -> dict[str, Any]:
    """Two iterations of one step, in the first of which one number of a gradient of the rank `broken` is none.

    Weights before, between and after, the metrics of both, and whether the first left this rank a finite gradient.
    """
    import torch

    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy, part = trainer._roster.trained("policy"), parts[trainer.data_parallel_rank()]
        # Of a matrix of which no other rank has this share: a sum over ranks would spread what is no number.
        matrix = next(parameter for name, parameter in _named(policy).items() if "gate_proj" in name)

        def no_number(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient.view(-1)[0] = torch.nan
            return gradient

        weights, hook = [gathered(trainer)], matrix.register_hook(no_number) if rank == broken else None
        metrics = [trainer.train_shard(part, 0)]
        finite = all(bool(p.main_grad.isfinite().all()) for p in policy.model.parameters())
        weights.append(gathered(trainer))
        if hook is not None:
            hook.remove()
        metrics.append(trainer.train_shard(part, 1))
        return {"weights": [*weights, gathered(trainer)], "metrics": metrics, "finite": finite}
    finally:
        trainer.close()


def speed(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard], pauses: list[float]
) -> list[dict[str, float]]:
    """Metrics of an iteration for each pause, which the last rank makes in every micro-batch that it trains on.

    `seconds_steps` is added: the time of the steps on this rank.
    """
    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy = trainer._roster.trained("policy")
        (chunk,), make_step = policy.model.bare, policy._step
        steps, found, pause = [0.0], [], 0.0

        def wait(*_: Any) -> None:
            if chunk.training and rank == world_size - 1:
                time.sleep(pause)

        def step(*args: Any) -> None:
            began = time.perf_counter()
            make_step(*args)
            steps[0] += time.perf_counter() - began

        chunk.register_forward_pre_hook(wait)
        policy._step = step
        for version, pause in enumerate(pauses):  # noqa: B007 - the hook reads it
            steps[0] = 0.0
            metrics = trainer.train_shard(parts[trainer.data_parallel_rank()], version)
            found.append(metrics | {"seconds_steps": steps[0]})
        return found
    finally:
        trainer.close()


def count_flops(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, parts: list[RankShard]
) -> dict[str, tuple[float, float]]:
    """(counted by torch, by our formula) of a pass for log-probs and of forward and backward.

    Torch also counts what the formula leaves out on purpose, which is added here: the pairs of a rectangle that no
    token sees, and the logits that the backward pass makes again.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from rlscale.trainer.megatron.steps import passes
    from rlscale.trainer.megatron.steps.flops import STEP

    trainer = open_trainer(rank, world_size, address, port, spec)
    try:
        policy, objective = trainer._roster.trained("policy"), trainer._objective
        (microbatches,) = trainer._steps(parts[0])
        flops = policy._flops
        forward = flops.share(microbatches, 1)
        unseen, logits = 0.0, 0.0
        for microbatch in microbatches:
            for batch in microbatch.sequences.batches:
                rows, longest = batch.queries.shape
                unseen += flops.per_pair * rows * longest**2
            lengths = microbatch.sequences.lengths
            unseen -= flops.per_pair * float((lengths * (lengths + 1) / 2).sum())
            logits += flops.per_output * len(microbatch.trainable)
        in_place = {torch.ops.aten.addmm_: _product}  # which torch's counter does not know
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            passes.forward_logprobs(policy.model, trainer._ranks, microbatches, spec.temperature)
        of_forward = counter.get_total_flops()
        loss = passes.policy_loss(policy.model, trainer._ranks, objective, spec.temperature, 0)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            passes.forward_backward(policy.model, microbatches, loss)
        of_step = counter.get_total_flops()
        return {"forward": (of_forward, forward + unseen), "step": (of_step, STEP * (forward + unseen) + logits)}
    finally:
        trainer.close()


def _product(c: list[int], a: list[int], b: list[int], **unused: Any) -> int:
    """FLOPs of c += a b, from the shapes."""
    return 2 * a[0] * a[1] * b[1]


def exported(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, folder: str, critic: bool = False
) -> None:
    """The weights that a run's policy or critic starts from, converted as the commands `export` and `import` do it."""
    from rlscale.trainer.megatron.disk.conversion import convert

    convert(spec, (rank, world_size, rank), (address, port), Path(folder), Form.hugging_face, critic=critic)
