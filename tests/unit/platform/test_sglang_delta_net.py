"""An engine's gated delta nets: tokens that come in parts, of requests side by side, are read as in one pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform import sglang_delta_net as net
from rlscale.platform.gated_delta_rule import causal_convolution

HEADS, KEY, VALUE, CHANNELS, WIDTH = 2, 8, 4, 6, 4
LENGTHS, PROMPTS = (9, 12), (8, 11)
A_LOG, BIAS = torch.tensor([0.1, -0.5]), torch.tensor([0.3, 1.0])


def request(tokens: int) -> list[Tensor]:
    """Query and key of one head, value of two, and both gates: [tokens, heads, size]."""
    generator = torch.Generator().manual_seed(tokens)
    sizes = ((1, KEY), (1, KEY), (HEADS, VALUE), (HEADS, 1), (HEADS, 1))
    return [torch.randn(tokens, *size, generator=generator) for size in sizes]


def prefill(parts: list[list[Tensor]], states: Tensor, slots: Tensor) -> Tensor:
    q, k, v, a, b = (torch.cat(same) for same in zip(*parts, strict=True))
    g, beta = net.gating(A_LOG, a.squeeze(-1), b.squeeze(-1), BIAS)
    starts = F.pad(torch.tensor([len(part[0]) for part in parts]).cumsum(0), (1, 0))
    vectors, gates = {"q": q[None], "k": k[None], "v": v[None]}, {"g": g, "beta": beta}
    output, *_ = net.chunk_gated_delta_rule(
        **vectors, **gates, initial_state=states, initial_state_indices=slots, cu_seqlens=starts
    )
    return output[0]


def test_prompts_and_then_a_token_each_read_what_whole_requests_read() -> None:
    requests = [request(tokens) for tokens in LENGTHS]
    alone = [prefill([one], torch.zeros(1, HEADS, VALUE, KEY), torch.tensor([0])) for one in requests]
    states, slots = torch.zeros(5, HEADS, VALUE, KEY), torch.tensor([3, 1])
    prompts = [[x[:-1] for x in one] for one in requests]
    first = prefill(prompts, states, slots)
    q, k, v, a, b = (torch.cat(same)[None] for same in zip(*([x[-1:] for x in one] for one in requests), strict=True))
    gates = a[0].squeeze(-1), b[0].squeeze(-1)
    last = net.decode(A_LOG, BIAS, q, k, v, *gates, states, slots, torch.arange(3), use_qk_l2norm_in_kernel=True)[0]
    together = first.split(PROMPTS)
    for number, expected in enumerate(alone):
        got = torch.cat([together[number], last[number : number + 1]])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not states[[0, 2, 4]].any()


def test_filters_go_on_from_the_last_tokens_of_each_request() -> None:
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(CHANNELS, WIDTH, generator=generator)
    requests = [torch.randn(tokens, CHANNELS, generator=generator) for tokens in LENGTHS]
    states, slots = torch.full((5, CHANNELS, WIDTH - 1), 7.0), torch.tensor([3, 1])  # of requests that are over
    starts = torch.tensor([0, PROMPTS[0], sum(PROMPTS)])
    first = net.causal_conv1d_fn(
        torch.cat([one[:-1] for one in requests]).t(),
        filters,
        None,
        activation="silu",
        conv_states=states,
        has_initial_state=torch.tensor([False, False]),
        cache_indices=slots,
        query_start_loc=starts,
    )
    last = net.causal_conv1d_update(
        torch.stack([one[-1] for one in requests]), states, filters, None, "silu", conv_state_indices=slots
    )
    for number, (one, prompt) in enumerate(zip(requests, first.t().split(PROMPTS), strict=True)):
        expected = F.silu(causal_convolution(one, filters[:, None], torch.arange(len(one))))
        torch.testing.assert_close(torch.cat([prompt, last[number : number + 1]]), expected, rtol=1e-5, atol=1e-6)
