"""Batched attention gives what attending request by request gives."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rlscale.platform import sglang_attention

HEADS, KV_HEADS, SIZE = 4, 2, 8


def request_by_request(query, k_cache, v_cache, table, requests, lengths, new):
    """Causal attention of the new tokens of each request, one request after another."""
    outputs, start = [], 0
    for request, length, fresh in zip(requests.tolist(), lengths.tolist(), new.tolist(), strict=True):
        slots = table[request, :length]
        mask = torch.arange(length)[None] <= torch.arange(length - fresh, length)[:, None]
        out = scaled_dot_product_attention(
            query[start : start + fresh].transpose(0, 1)[None],
            k_cache[slots].transpose(0, 1)[None],
            v_cache[slots].transpose(0, 1)[None],
            attn_mask=mask,
            enable_gqa=True,
            scale=0.3,
        )
        outputs.append(out[0].transpose(0, 1))
        start += fresh
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("lengths", "new"),
    [
        ([5, 1, 40, 7, 7, 200], [1, 1, 1, 1, 1, 1]),  # decoding
        ([5, 1, 40, 7, 7, 200], [5, 1, 40, 3, 7, 50]),  # prompts, some with a cached prefix
    ],
)
@pytest.mark.parametrize("most", [sglang_attention.PADDED_KEYS, 16])
def test_requests_of_any_length_attend_as_if_alone(monkeypatch, lengths: list[int], new: list[int], most: int):
    monkeypatch.setattr(sglang_attention, "PADDED_KEYS", most)
    torch.manual_seed(0)
    k_cache, v_cache = torch.randn(2, 300, KV_HEADS, SIZE, dtype=torch.float64)
    table = torch.stack([torch.randperm(300) for _ in range(9)]).int()
    requests = torch.tensor([8, 0, 3, 1, 5, 2])
    query = torch.randn(sum(new), HEADS, SIZE, dtype=torch.float64)
    sizes = torch.tensor(lengths), torch.tensor(new)
    options = {"enable_gqa": True, "scaling": 0.3}
    found = sglang_attention._attend(query, torch.zeros_like(query), k_cache, v_cache, table, requests, *sizes, options)
    expected = request_by_request(query, k_cache, v_cache, table, requests, *sizes)
    assert torch.allclose(found, expected, atol=1e-12)


def test_every_request_is_in_one_chunk():
    lengths, new = [3, 900, 5, 70, 3, 1], [1, 900, 5, 2, 3, 1]
    chunks = sglang_attention._chunks(lengths, new)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(6))
    for chunk in chunks:
        shortest, longest = min(lengths[i] for i in chunk), max(lengths[i] for i in chunk)
        assert longest <= sglang_attention.PADDING * shortest + sglang_attention.SLACK
