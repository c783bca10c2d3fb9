"""The loss of the layer that predicts a token further: cross-entropy, in which nothing but that layer has a gradient.

Of a row x_1 ... x_n, with h_t what the model makes of x_1 ... x_t (behind its last norm), e its embedding and W its
output projection:

    h'_t = layer(h_1, e(x_2); ...; h_t, e(x_{t+1}))        loss = - sum_t w_{t+2} log softmax(W h'_t / T)[x_{t+2}]

over the t whose x_{t+2} is trainable. w is that token's weight in the step's loss, so that the sum over micro-batches
and ranks is the algorithm's kind of mean; T is the temperature that it was sampled at. h, e and W are constants.

Source: DeepSeek-V3 (arXiv 2412.19437), eq. 21 to 25 with one depth; detached as in Xiaomi MiMo's and slime's training.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region
from torch import Tensor
from torch.nn import functional as F

from rlscale.trainer.finite_loss import with_gradient_of_its_kind
from rlscale.trainer.megatron.batch.microbatch import MicroBatch
from rlscale.trainer.megatron.batch.routing import router_share
from rlscale.trainer.megatron.model.model import Model
from rlscale.trainer.megatron.model.mtp_layer import rotary_angles
from rlscale.trainer.megatron.ranks.parallel import Ranks
from rlscale.trainer.megatron.steps.logprobs import vocab_parallel_logprobs


def mtp_loss(
    model: Model, ranks: Ranks, hidden: Tensor, microbatch: MicroBatch, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """A micro-batch's share of the loss (float32 scalar with gradient), and sums of its metric, on the last stage.

    `hidden` [1, T, H]: what the model made of the micro-batch, the same on every tensor-parallel rank.
    """
    targets, chunk = microbatch.mtp, model.last_chunk
    assert targets is not None, "micro-batches of training passes have them"
    with torch.no_grad():
        states = _own(hidden.detach().view(-1, 1, hidden.shape[-1]), model, ranks)
        embedded = _own(_embed(microbatch.labels, model.embedding_weight, ranks)[:, None], model, ranks)
    sequences = microbatch.sequences
    own = chunk.mtp_layer(states, embedded, sequences, rotary_angles(chunk, sequences))
    predicting, _ = chunk.output_layer(own)
    logprobs, _ = vocab_parallel_logprobs(
        predicting.view(-1, predicting.shape[-1]).index_select(0, targets.trainable),
        model.output_weight.detach(),
        targets.labels,
        temperature=temperature,
        vocabulary=model.vocabulary,
        group=ranks.tensor_group,
        entropy=False,
    )
    loss = with_gradient_of_its_kind(-(targets.weights * logprobs).sum(), logprobs)
    tokens = torch.full((), float(len(targets.labels)), dtype=torch.float64, device=loss.device)
    return loss, {"mtp/loss": -logprobs.detach().double().sum(), "mtp/tokens": tokens}


def _own(of_tokens: Tensor, model: Model, ranks: Ranks) -> Tensor:
    """What a layer of this rank is given of [T, ...]: with sequence parallelism its share of the tokens."""
    size = ranks.tensor_group.size() if model.config.sequence_parallel else 1
    return router_share(of_tokens, size, ranks.tensor_group.rank())


def _embed(tokens: Tensor, weight: Tensor, ranks: Ranks) -> Tensor:
    """Embeddings [T, H] of tokens [T]; weight [V / ranks, H] is this rank's part."""
    if ranks.tensor_group.size() == 1:
        return F.embedding(tokens, weight)
    local = tokens - ranks.tensor_group.rank() * len(weight)
    here = (local >= 0) & (local < len(weight))
    found = F.embedding(torch.where(here, local, 0), weight) * here[:, None]
    embedded: Tensor = reduce_from_tensor_model_parallel_region(found, ranks.tensor_group)
    return embedded


def bring_embedding(model: Model, ranks: Ranks) -> None:
    """Give the last stage the embedding as the first has it now, where it has none of its own. Collective."""
    pipeline = ranks.pipeline_group
    if pipeline.size() == 1 or model.weights.tied:
        return
    model.finish_gathering()
    if ranks.first_stage:
        weight = model.embedding_weight.detach()
        dist.send(weight.contiguous(), dist.get_global_rank(pipeline, pipeline.size() - 1), group=pipeline)
    elif ranks.last_stage:
        if model.brought_embedding is None:
            model.brought_embedding = torch.empty_like(model.output_weight, requires_grad=False)
        dist.recv(model.brought_embedding, dist.get_global_rank(pipeline, 0), group=pipeline)
