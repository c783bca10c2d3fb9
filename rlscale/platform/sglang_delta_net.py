"""Gated delta nets in SGLang on the CPU: plain torch in the place of its kernels, which need AMX or a GPU.

The names and arguments are those of the kernels. A request's state is in a slot of a pool, the conv's [slots, channels,
width - 1] and the matrices' [slots, heads, value size, key size]; slots of new requests are 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform.gated_delta_rule import gated_delta_rule, unit_length

_GATING = "sgl_kernel::fused_gdn_gating_cpu"
_DECODE = "sgl_kernel::fused_sigmoid_gating_delta_rule_update_cpu"


def fill_kernels(module: Any) -> None:
    """sgl_kernel.mamba: the kernels that SGLang's gated delta nets import, and the operations that they look up."""
    module.causal_conv1d_fn_cpu = causal_conv1d_fn
    module.causal_conv1d_update_cpu = causal_conv1d_update
    module.chunk_gated_delta_rule_cpu = chunk_gated_delta_rule
    torch.library.define(_GATING, "(Tensor A_log, Tensor a, Tensor b, Tensor dt_bias) -> (Tensor, Tensor)")
    torch.library.impl(_GATING, "CPU", gating)
    torch.library.define(
        _DECODE,
        "(Tensor A_log, Tensor dt_bias, Tensor q, Tensor k, Tensor v, Tensor a, Tensor b, "
        "Tensor(a!) initial_state_source, Tensor initial_state_indices, Tensor cu_seqlens, "
        "bool use_qk_l2norm_in_kernel, float softplus_beta=1.0, float softplus_threshold=20.0) -> Tensor",
    )
    torch.library.impl(_DECODE, "CPU", decode)


def gated_norm(module: Any) -> None:
    """sglang.kernels.ops.attention.fla.fused_norm_gate: the norm of what a net reads, and its gate."""

    def rms_norm_gated(
        x: Tensor, g: Tensor, weight: Tensor, bias: None, activation: str = "swish", eps: float = 1e-6, **unused: Any
    ) -> Tensor:
        gate = torch.sigmoid(g.float()) if activation == "sigmoid" else F.silu(g.float())
        return (F.rms_norm(x.float(), weight.shape, weight.float(), eps) * gate).to(x.dtype)

    module.rms_norm_gated = rms_norm_gated


def gated_expert(module: Any) -> None:
    """sglang.kernels.ops.elementwise.elementwise: the gate of an expert that every token visits."""

    def launch(hidden: Tensor, weight: Tensor, shared: Tensor, output: Tensor, *, do_add: bool) -> None:
        gated = torch.sigmoid(hidden.float() @ weight.float())[:, None] * shared
        output.copy_(output + gated if do_add else gated)

    module._launch_fused_gate_sigmoid_mul = launch


def gating(A_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803 - its name
    """Logarithm of the decay, and the share that is added: [tokens, heads] each -> [1, tokens, heads] each."""
    log_decay = -A_log.float().exp() * F.softplus(a.float() + dt_bias.float())
    return log_decay[None], b.float().sigmoid()[None]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: str,
    conv_states: Tensor,
    has_initial_state: Tensor,
    cache_indices: Tensor,
    query_start_loc: Tensor,
    **unused: Any,
) -> Tensor:
    """Filters over the new tokens of several requests: [channels, tokens] -> the same; the states are renewed."""
    output, starts = torch.empty_like(x), query_start_loc.tolist()
    for request, slot in enumerate(cache_indices.tolist()[: len(starts) - 1]):
        own = slice(starts[request], starts[request + 1])
        if own.start == own.stop:
            continue
        before = conv_states[slot] * has_initial_state[request]
        seen = torch.cat([before.to(x.dtype), x[:, own]], dim=1)
        output[:, own] = F.conv1d(seen[None], weight[:, None], bias, groups=len(weight))[0]
        conv_states[slot] = seen[:, -before.shape[1] :]
    return _activated(output, activation)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    conv_state_indices: Tensor,
    **unused: Any,
) -> Tensor:
    """Filters over one new token of each request: [requests, channels] -> the same; the states are renewed."""
    seen = torch.cat([conv_state[conv_state_indices].to(x.dtype), x[..., None]], dim=-1)
    output = (seen * weight).sum(-1)
    conv_state[conv_state_indices] = seen[..., 1:].to(conv_state.dtype)
    return _activated(output if bias is None else output + bias, activation)


def _activated(x: Tensor, activation: str | None) -> Tensor:
    return F.silu(x) if activation in ("silu", "swish") else x


def chunk_gated_delta_rule(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor,
    initial_state_indices: Tensor,
    cu_seqlens: Tensor,
    **unused: Any,
) -> tuple[Tensor, None, None]:
    """What the new tokens of several requests read: [1, tokens, heads, sizes] -> [1, tokens, heads, value size]."""
    output, starts = torch.empty_like(v), cu_seqlens.tolist()
    for request, slot in enumerate(initial_state_indices.tolist()[: len(starts) - 1]):
        own = slice(starts[request], starts[request + 1])
        if own.start < own.stop:
            tokens = [x[:, own] for x in (q, k, v, g, beta)]
            output[:, own] = _advance(tokens, initial_state, torch.tensor([slot]))
    return output, None, None


def decode(
    A_log: Tensor,  # noqa: N803 - the kernel's name of it
    dt_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    initial_state_source: Tensor,
    initial_state_indices: Tensor,
    cu_seqlens: Tensor,
    use_qk_l2norm_in_kernel: bool,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
) -> Tensor:
    """What one new token of each request reads: [1, requests, heads, sizes] -> [1, requests, heads, value size]."""
    log_decay, share = gating(A_log, a, b, dt_bias)
    tokens = [x.transpose(0, 1) for x in (q, k, v, log_decay, share)]
    return _advance(tokens, initial_state_source, initial_state_indices).transpose(0, 1)


def _advance(tokens: list[Tensor], states: Tensor, slots: Tensor) -> Tensor:
    """Read what requests have in their slots, and renew it.

    `tokens`: query, key, value, logarithm of the decay, share, [requests, tokens, heads, ...] each -> as the value.
    """
    query, key, value, log_decay, share = tokens
    times = value.shape[2] // key.shape[2]
    query, key = (unit_length(x.float()).repeat_interleave(times, dim=2) for x in (query, key))
    query, key, value, log_decay, share = (x.transpose(1, 2) for x in (query, key, value, log_decay, share))
    before = states[slots].float().transpose(-1, -2)
    read, after = gated_delta_rule(query, key, value, log_decay, share, before)
    states[slots] = after.transpose(-1, -2).to(states.dtype)
    return read.transpose(1, 2).to(value.dtype)
