"""The gated delta rule (arXiv 2412.06464, eq. 10 and section 3.3), chunk by chunk, in plain torch.

The trainer computes it so on every device, engines on the CPU, where they have no kernel of it.

A head keeps a matrix S [key size, value size], 0 where a sequence starts. A token with query q, key k, value v, decay
exp(g) and share b changes it and reads it:

    S <- exp(g) S;   S <- S + b k (v - k S);   o = q S

Within a chunk the values that are added depend on each other by a triangular system, which is solved at once; chunks
follow one another. Everything is computed in float32, as transformers does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
"""Tokens of a chunk; a shorter sequence is one chunk."""


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, share: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What every token reads [sequences, heads, tokens, value size], and the matrices after the last one; float32.

    Shapes: query, key [sequences, heads, tokens, key size], of length 1 where a model says so; value [..., value size];
    log_decay (g, at most 0) and share (b, 0 to 1) [sequences, heads, tokens]; state [sequences, heads, key size, value
    size], the matrices before the first token. Sequences do not see each other, nor a token those behind it.
    """
    tokens = key.shape[2]
    size = min(CHUNK, tokens)
    query, key, value = (_chunks(x.float(), size) for x in (query, key, value))
    decay, share = (_chunks(x.float().unsqueeze(-1), size) for x in (log_decay, share))
    decay = decay.cumsum(-2)  # [..., chunk, 1]: from the chunk's start to each of its tokens
    query = query * query.shape[-1] ** -0.5
    from_start, to_end = decay.exp(), (decay[..., -1:, :] - decay).exp()
    # From token j to token i of a chunk: tril before exp, because above the diagonal it would overflow.
    between = (decay - decay.transpose(-1, -2)).tril().exp().tril()
    meets = (share * key) @ key.transpose(-1, -2) * between
    added = torch.cat([share * value, share * key * from_start], dim=-1)
    # Unitriangular: what stands on the diagonal and above it is not read.
    added = torch.linalg.solve_triangular(meets, added, upper=False, unitriangular=True)
    own, of_state = added.split([value.shape[-1], key.shape[-1]], dim=-1)
    seen = query @ key.transpose(-1, -2) * between
    if state is None:
        state = key.new_zeros(*key.shape[:2], key.shape[-1], value.shape[-1])
    outputs = []
    for chunk in range(key.shape[2]):
        new = own[:, :, chunk] - of_state[:, :, chunk] @ state
        outputs.append((query * from_start)[:, :, chunk] @ state + seen[:, :, chunk] @ new)
        kept = from_start[:, :, chunk, -1:] * state
        state = kept + (key * to_end)[:, :, chunk].transpose(-1, -2) @ new
    return torch.cat(outputs, dim=2)[:, :, :tokens], state


def unit_length(x: Tensor) -> Tensor:
    """The same of length 1 in its last dimension, and shorter near 0, as transformers has it."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _chunks(x: Tensor, size: int) -> Tensor:
    """[sequences, heads, tokens, n] -> [sequences, heads, chunks, size, n], filled up with zeros at the end.

    With a share of 0 and no decay these change nothing.
    """
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))


def causal_convolution(x: Tensor, filters: Tensor, positions: Tensor) -> Tensor:
    """A filter over each channel of packed sequences, which ends at each token: [tokens, channels] -> the same.

    Shapes: filters [channels, 1, width], the last number of the token itself; positions [tokens], of each token in its
    sequence: what lies before its first token is 0.
    """
    width = filters.shape[-1]
    output = x * filters[:, 0, -1]
    for back in range(1, min(width, len(x))):
        earlier = F.pad(x[:-back], (0, 0, back, 0)) * (positions >= back)[:, None]
        output = torch.addcmul(output, earlier, filters[:, 0, width - 1 - back])
    return output
