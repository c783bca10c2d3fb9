"""The layers that Megatron otherwise takes from Transformer Engine, in plain torch: same parameters, same names.

So weight maps and checkpoints are the same with and without Transformer Engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.moe.experts import TEGroupedMLP
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from megatron.core.utils import divide
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from rlscale.platform.elementwise import rms_norm, swiglu


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm that allows sequence parallelism (Megatron's own wrapper of torch's norm does not)."""

    def __init__(
        self, config: Any, hidden_size: int, eps: float = 1e-5, zero_centred: bool | None = None, **unused: Any
    ) -> None:
        """`zero_centred`: whether it multiplies with its weight and 1; by default the config says so."""
        super().__init__()
        self.config, self.eps = config, eps
        self.zero_centred = config.layernorm_zero_centered_gamma if zero_centred is None else zero_centred
        self.weight = _norm_weight(config, hidden_size, self.zero_centred)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return _norm(x, self.weight, self.eps, self.zero_centred)


class NormColumnParallelLinear(ColumnParallelLinear):
    """A norm, then a column-parallel linear; the norm's weight is the linear's `layer_norm_weight`."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **options: Any) -> None:
        options.setdefault("gather_output", False)
        super().__init__(input_size, output_size, config=config, **options)
        self.zero_centred = config.layernorm_zero_centered_gamma
        self.layer_norm_weight = _norm_weight(config, input_size, self.zero_centred)
        self.eps = config.layernorm_epsilon

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """[tokens, 1, input] -> ([tokens, 1, output / ranks], bias or None)."""
        normed = _norm(x, self.layer_norm_weight, self.eps, self.zero_centred)
        return super().forward(normed, *args, **kwargs)


class WholeLinear(torch.nn.Module):
    """A linear that every tensor-parallel rank has whole, and applies to its own tokens."""

    product: Callable[[Tensor, Tensor], Tensor] | None = None
    """Of tokens and the weight, in the place of torch's."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, init_method: Any, bias: bool) -> None:
        super().__init__()
        assert not bias, "a linear that is not split has no bias"
        weight: Any = Parameter(torch.empty(output_size, input_size, dtype=config.params_dtype))
        weight.sequence_parallel = config.sequence_parallel  # Megatron sums its gradient over the ranks then
        self.weight: Tensor = weight

    def forward(self, x: Tensor) -> Tensor:
        """[tokens (of this rank), 1, input] -> [tokens (of this rank), 1, output]."""
        return (self.product or F.linear)(x, self.weight)


class NormedRowParallelLinear(RowParallelLinear):
    """A row-parallel linear, then a norm, whose weight is the linear's `post_layernorm.weight`."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **options: Any) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.post_layernorm = RMSNorm(config, output_size, config.layernorm_epsilon)

    def forward(self, x: Tensor) -> Any:
        """[tokens, 1, input / ranks] -> ([tokens (of this rank), 1, output], bias or None)."""
        output, bias = super().forward(x)
        return self.post_layernorm(output), bias


class GatedMLP(MLP):
    """Megatron's MLP with the gated activation in one operation; same parameters, same names."""

    def forward(self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **options: Any) -> Any:
        """[tokens, 1, hidden] -> ([tokens, 1, hidden], bias or None)."""
        if per_token_scale is not None or hidden_states.is_cuda or not _plain_swiglu(self.config):
            return super().forward(hidden_states, per_token_scale, **options)
        gate_and_up, _ = self.linear_fc1(hidden_states)
        return self.linear_fc2(swiglu(gate_and_up))


def _plain_swiglu(config: Any) -> bool:
    """Whether the MLP is silu(gate) * up without biases, offsets or bounds."""
    return (
        config.gated_linear_unit
        and config.activation_func is F.silu
        and not config.add_bias_linear
        and config.activation_func_clamp_value is None
        and config.glu_linear_offset == 0.0
    )


class Experts(TEGroupedMLP):
    """Megatron's experts, with parameters marked so that their gradients are right in every layout."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config = self.config
        sizes = config.tensor_model_parallel_size, config.expert_model_parallel_size, config.expert_tensor_parallel_size
        if set(sizes) == {1}:
            return  # like any other parameter, reduced over the data-parallel group
        marked: Any  # Megatron reads these attributes from parameters
        for split, linear in enumerate((self.linear_fc1, self.linear_fc2)):
            for marked in linear.parameters():
                # Reduced over the expert data-parallel group. With tensor but without expert parallelism 0.16 takes the
                # data-parallel group, and ranks that share a sequence keep the gradients of their own tokens alone.
                marked.allreduce = False
                # Otherwise the grad-norm leaves experts out on every tensor-parallel rank but the first.
                marked.tensor_model_parallel, marked.partition_dim, marked.partition_stride = True, split, 1


class GroupedLinear(torch.nn.Module):
    """One linear per local expert, parameters `weight0`, `weight1`, …; takes the place of Transformer Engine's.

    With expert tensor parallelism it holds a part of each weight. Megatron's token dispatcher gathers the tokens before
    the first linear and sums over the ranks after the second, so nothing is communicated here.
    """

    split: int
    """Dimension of the weights [output, input] that expert tensor parallelism cuts."""

    product: Callable[[Tensor, Tensor], Tensor] | None = None
    """Of tokens [n, input] and a weight, in the place of torch's; None: torch's."""

    def __init__(
        self,
        num_gemms: int,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool = False,
        tp_comm_buffer_name: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        if bias:
            raise ValueError("experts with biases need Transformer Engine")
        self.experts, self.expert_group, self.tensor_group = num_gemms, pg_collection.ep, pg_collection.expt_tp
        shape = [output_size, input_size]
        shape[self.split] = divide(shape[self.split], self.tensor_group.size())
        for number in range(num_gemms):
            self.register_parameter(f"weight{number}", Parameter(torch.empty(shape, dtype=config.params_dtype)))

    def forward(self, x: Tensor, m_splits: Any) -> tuple[Tensor, None]:
        """x [tokens, input], sorted by expert; m_splits: tokens of each expert -> ([tokens, output], None)."""
        sizes = m_splits.tolist() if torch.is_tensor(m_splits) else list(m_splits)
        product = self.product or F.linear
        parts = [product(part, getattr(self, f"weight{number}")) for number, part in enumerate(x.split(sizes))]
        return torch.cat(parts), None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Every expert as one entry of a tensor over all experts, so that other expert-parallel sizes can read it."""
        total, first = self.expert_group.size() * self.experts, self.expert_group.rank() * self.experts
        state = {}
        for number in range(self.experts):
            offsets = (*sharded_offsets, (len(sharded_offsets), first + number, total))
            shards = make_sharded_tensors_for_checkpoint(
                {"weight": getattr(self, f"weight{number}")},
                prefix,
                {"weight": self.split},
                offsets,
                tp_group=self.tensor_group,
                dp_cp_group=parallel_state.get_expert_data_parallel_group(),
            )
            state[f"{prefix}weight{number}"] = shards[f"{prefix}weight"]
        return state


class ColumnGroupedLinear(GroupedLinear):
    """The experts' first linear."""

    split = 0


class RowGroupedLinear(GroupedLinear):
    """The experts' second linear."""

    split = 1


def _norm(x: Tensor, weight: Tensor, eps: float, zero_centred: bool) -> Tensor:
    """A norm whose weight is zero-centred is computed in float32: 16 bits round a small weight away beside 1."""
    if not zero_centred:
        return rms_norm(x, weight, eps)
    return rms_norm(x.float(), 1.0 + weight.float(), eps).to(x.dtype)


def _norm_weight(config: Any, size: int, zero_centred: bool) -> Parameter:
    weight = Parameter((torch.zeros if zero_centred else torch.ones)(size, dtype=config.params_dtype))
    weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]  # Megatron sums its gradient then
    return weight
