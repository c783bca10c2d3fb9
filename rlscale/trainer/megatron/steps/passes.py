"""One pass of a model over a step's micro-batches: forward only for a column, or forward and backward for a loss.

Both go through Megatron's schedules, so that pipeline stages work alike. The loss of a micro-batch is its share of the
step's loss; gradients are summed over micro-batches and ranks and never divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.data.batches.fields import RELATIVE_TEMPERATURE, SAMPLER_WORDS, SUPPORT
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.steps.logprobs import vocab_parallel_logprobs
from rlscale.trainer.megatron.steps.mtp_loss import mtp_loss
from rlscale.trainer.objective import Objective
from rlscale.trainer.objective_metrics import Metrics
from rlscale.trainer.value_objective import ValueObjective

Finish = Callable[[Tensor, MicroBatch], tuple[Tensor, Tensor, Any]]
"""What becomes of a micro-batch's output on the last stage: (share of the loss, number of tokens 0, what to keep)."""


def forward_logprobs(
    model: Model, ranks: Ranks, microbatches: Sequence[MicroBatch], temperature: float
) -> list[Tensor] | None:
    """Log-probs [T] of every micro-batch's labels without gradient, 0 where a label is not a trainable token.

    None on ranks that are not the last stage.
    """

    def keep(hidden: Tensor, microbatch: MicroBatch) -> tuple[Tensor, Tensor, Any]:
        logprobs, *_ = _logprobs(model, ranks, hidden, microbatch, temperature, entropy=False)
        return hidden.new_zeros(()), _no_tokens(hidden), logprobs

    return _forward(model, ranks, microbatches, keep)


def forward_values(model: Model, ranks: Ranks, microbatches: Sequence[MicroBatch]) -> list[Tensor] | None:
    """Values [T] read at the positions that predict every micro-batch's labels; None where `forward_logprobs` is."""

    def keep(values: Tensor, microbatch: MicroBatch) -> tuple[Tensor, Tensor, Any]:
        return values.new_zeros(()), _no_tokens(values), values.view(-1)

    return _forward(model, ranks, microbatches, keep)


def policy_loss(
    model: Model, ranks: Ranks, objective: Objective, temperature: float, version: int, mtp_scale: float = 0.0
) -> Finish:
    """The objective's share of the loss, from hidden states; keeps (share of the loss, metrics).

    A model with a layer that predicts a token further has its loss, times `mtp_scale`, in what is minimised; what is
    kept is the objective's.
    """

    def finish(hidden: Tensor, microbatch: MicroBatch) -> tuple[Tensor, Tensor, Any]:
        logprobs, entropy, of_words = _logprobs(
            model,
            ranks,
            hidden,
            microbatch,
            temperature,
            entropy=objective.needs_entropy,
            entropy_gradient=objective.needs_entropy_gradient,
            words=objective.needs.sampler_words > 0,
        )
        # Filled on the device: a tensor made on the host would be waited for there, in every micro-batch.
        scalars = {"version": torch.full((), version, device=hidden.device)}
        fields = {**microbatch.fields, **microbatch.computed, **scalars}
        loss, metrics = objective(logprobs, entropy, fields, _segment_sum(microbatch, ranks), of_words)
        kept = loss.detach(), metrics
        if model.mtp:
            further, sums = mtp_loss(model, ranks, hidden, microbatch, temperature)
            loss = loss + mtp_scale * further
            metrics.sums.update(sums)
        return loss, _no_tokens(hidden), kept

    return finish


def value_loss(objective: ValueObjective) -> Finish:
    """The critic's share of the loss, from its values; keeps (share of the loss, metrics)."""

    def finish(values: Tensor, microbatch: MicroBatch) -> tuple[Tensor, Tensor, Any]:
        loss, metrics = objective(values.view(-1), microbatch.fields)
        return loss, _no_tokens(values), (loss.detach(), metrics)

    return finish


def forward_backward(model: Model, microbatches: Sequence[MicroBatch], loss: Finish) -> list[tuple[Tensor, Metrics]]:
    """Add the gradients of one step's loss; returns (share of the loss, metrics) of each micro-batch on the last stage.

    Gradients are complete (reduced over all ranks) on return.
    """
    return _run(model, microbatches, loss, forward_only=False)


def _forward(model: Model, ranks: Ranks, microbatches: Sequence[MicroBatch], keep: Finish) -> list[Tensor] | None:
    model.eval()
    with torch.no_grad():
        results = _run(model, microbatches, keep, forward_only=True)
    model.train()
    return results if ranks.last_stage else None


def _check_lengths(model: Model, microbatches: Sequence[MicroBatch]) -> None:
    """Configurations that allow longer sequences are refused; stored rollouts may have some all the same."""
    if model.reach is None:
        return
    longest = max((int(microbatch.sequences.lengths.max(initial=0)) for microbatch in microbatches), default=0)
    if longest > model.reach.tokens:
        raise UserError(
            f"a sequence has {longest} tokens, and the model's attention sees {model.reach.tokens} at most "
            f"({model.reach.key}), beyond which it is not supported; leave longer ones out of "
            "rollout.replay, or of the data"
        )


def _run(model: Model, microbatches: Sequence[MicroBatch], finish: Finish, *, forward_only: bool) -> list[Any]:
    """Megatron's schedule over the micro-batches; the third values of `finish` on the last stage, else empty."""
    _check_lengths(model, microbatches)

    def forward_step(batches: Iterator[MicroBatch], chunk: torch.nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        microbatch = next(batches)
        output = chunk(microbatch.tokens, None, None, packed_seq_params=microbatch.sequences, **options)
        return output, lambda last: finish(last, microbatch)

    # In 16 bits Megatron would make a float32 copy of the output; the log-probs convert what they need.
    options = {"fp32_output": False} if model.config.bf16 or model.config.fp16 else {}
    chunks = model.wrapped
    iterators = [iter(microbatches) for _ in chunks]
    several = len(chunks) > 1
    results: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if several else iterators[0],
        model=chunks if several else chunks[0],
        num_microbatches=len(microbatches),
        seq_length=microbatches[0].tokens.shape[1],
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return results


def configure_schedule(model: Model, scale_loss: Callable[[Tensor], Tensor]) -> None:
    """Tell Megatron's schedules how to finish a step's gradients."""

    def finalize(chunks: list[torch.nn.Module], num_tokens: Tensor | None = None, **options: Any) -> None:
        # Without a number of tokens the gradients stay the sums that they are.
        finalize_model_grads(chunks, None, **options)

    config, chunks = model.config, model.wrapped
    config.finalize_model_grads_func = finalize
    config.grad_scale_func = scale_loss
    config.no_sync_func = [chunk.no_sync for chunk in chunks] if len(chunks) > 1 else chunks[0].no_sync
    if len(chunks) > 1 and chunks[0].ddp_config.overlap_grad_reduce:
        config.grad_sync_func = [chunk.start_grad_sync for chunk in chunks]


def _logprobs(
    model: Model,
    ranks: Ranks,
    hidden: Tensor,
    microbatch: MicroBatch,
    temperature: float,
    *,
    entropy: bool,
    entropy_gradient: bool = False,
    words: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probs and entropies [T] of the labels that are trainable tokens; 0 at all others, which are never read.

    With `words` also those of the words that the engine names at each of them, [T, K].

    Every pass leaves out the same tokens: a product of other rows would round differently, and the ratio of the first
    step would not be exactly 1. Labels that were drawn from some words only have log-probs among those, and labels that
    were drawn at a temperature of their own at that.
    """
    hidden = hidden.view(-1, hidden.shape[-1])
    support = microbatch.fields.get(SUPPORT.name)
    labels = microbatch.labels.index_select(0, microbatch.trainable)
    if words:
        named = microbatch.fields[SAMPLER_WORDS.name].index_select(0, microbatch.trainable)
        labels = torch.cat([labels[:, None], named.to(labels.dtype)], 1)
    predicting = hidden.index_select(0, microbatch.trainable)
    relative = microbatch.fields.get(RELATIVE_TEMPERATURE.name)
    if relative is not None:  # besides the run's own temperature, by which all logits are divided
        each = relative.index_select(0, microbatch.trainable)[:, None]
        predicting = (predicting.to(each.dtype) / each).to(hidden.dtype)
    logprobs, entropies = vocab_parallel_logprobs(
        predicting,
        model.output_weight,
        labels,
        temperature=temperature,
        vocabulary=model.vocabulary,
        group=ranks.tensor_group,
        entropy=entropy,
        entropy_gradient=entropy_gradient,
        support=None if support is None else support.index_select(0, microbatch.trainable),
        invariant=model.batch_invariant,
    )

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(len(hidden), *values.shape[1:]).index_copy(0, microbatch.trainable, values)

    of_words = spread(logprobs[:, 1:]) if words else None
    if words:
        logprobs = logprobs[:, 0]
    return spread(logprobs), None if entropies is None else spread(entropies), of_words


def _no_tokens(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int, device=like.device)


def _segment_sum(microbatch: MicroBatch, ranks: Ranks) -> Callable[[Tensor], Tensor]:
    """See rlscale.algo.losses.SegmentSum."""
    sequences = microbatch.sequences

    def segment_sum(x: Tensor) -> Tensor:
        sums = x.new_zeros(sequences.segments).index_add(0, sequences.segment_of, x)
        if ranks.context_group.size() > 1:
            sums = _SumOverRanks.apply(sums, ranks.context_group)
        return sums.index_select(0, sequences.segment_of)

    return segment_sum


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks that each have a share of the loss; its gradient is summed in the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None
