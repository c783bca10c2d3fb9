"""What `run.bitwise` costs part by part: one layer of `bitwise.py`'s model for costs, as it is and with the switch.

`python benchmarks/bitwise_parts.py [float32 bfloat16]`: milliseconds of CPU time on one thread, the middle of 8
measurements in turns. A decode step is of 64 requests, whose keys and values come out of an engine's cache; a forward
pass is a trainer's over 4,096 tokens, in segments of up to 300.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bitwise import COST, case_of
from machine import describe_machine, load_average, milliseconds
from torch import Tensor
from torch.nn import functional as F

from rlscale.config.schema.model_config import DType
from rlscale.platform import batch_invariant, sglang_attention, sglang_bitwise
from rlscale.trainer.megatron.batch.sequences import AttentionBatch, pack
from rlscale.trainer.megatron.ranks.slicing import Slicing

TIMES, TOKENS = 8, 4096
SIZES: dict[str, Any] = COST
HEADS, KEY_HEADS, SIZE = (int(SIZES[key]) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
Pair = tuple[Callable[[], Any], Callable[[], Any]]
"""A part as it is, and with the switch."""


def main() -> None:
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print("| part | type | as it is | `run.bitwise` |\n" + "|---" * 4 + "|")
    with torch.no_grad():
        for name in sys.argv[1:] or ("float32", "bfloat16"):
            for part, (plain, bitwise) in parts(DType[name]).items():
                took = milliseconds(TIMES, plain, bitwise)
                print(f"| {part} | {name} | {took[0]:.1f} | {took[1]:.1f} ({took[1] / took[0]:.1f} x) |", flush=True)


def parts(dtype: DType) -> dict[str, Pair]:
    """The parts of a layer, by name."""
    lengths = [len(prompt) for prompt in case_of("cost", dtype).prompts()]
    number = getattr(torch, dtype.value)
    return {
        f"a decode step of {len(lengths)} requests: attention": decoding([one + 50 for one in lengths], number),
        f"a decode step of {len(lengths)} requests: products": products(len(lengths), number),
        f"a forward pass over {TOKENS:,} tokens: attention": forward([one + 100 for one in lengths], number),
        f"a forward pass over {TOKENS:,} tokens: products": products(TOKENS, number),
    }


def decoding(lengths: list[int], dtype: torch.dtype) -> Pair:
    """Attention of the last token of each request to all of it, out of a cache."""
    long = torch.tensor(lengths)
    table = torch.randperm(len(lengths) * int(long.max()) + 1).view(-1)[1:].view(len(lengths), -1)
    keys, values = (drawn(table.numel() + 1, KEY_HEADS, SIZE, dtype=dtype) for _ in range(2))
    query = drawn(len(lengths), HEADS, SIZE, dtype=dtype)
    given = keys, values, table, torch.arange(len(lengths)), long, torch.ones_like(long), {"scaling": SIZE**-0.5}

    def step(attend: Any, together: int, most: int) -> Tensor:
        sglang_attention.attend, sglang_attention.keys_together, sglang_attention.PADDED_KEYS = attend, together, most
        return sglang_attention._attend(query, torch.empty_like(query), *given)

    plain = sglang_attention.masked_attention, 1, sglang_attention.PADDED_KEYS
    bitwise = batch_invariant.attention, batch_invariant.KEYS, sglang_bitwise._KEYS
    return partial(step, *plain), partial(step, *bitwise)


def forward(lengths: list[int], dtype: torch.dtype) -> Pair:
    """Attention of whole segments of `TOKENS` tokens, as a trainer batches them."""
    ends = torch.tensor(lengths).cumsum(0)
    lengths = lengths[: int((ends < TOKENS).sum())]
    lengths.append(TOKENS - sum(lengths))
    query = drawn(TOKENS, HEADS, SIZE, dtype=dtype)
    key, value = (drawn(TOKENS, KEY_HEADS, SIZE, dtype=dtype) for _ in range(2))
    batches = pack(lengths, Slicing(), torch.device("cpu"), attend=True).batches

    def attended(batch: AttentionBatch) -> tuple[Tensor, Tensor, Tensor]:
        return batch.take(query, batch.queries), batch.take(key, batch.keys), batch.take(value, batch.keys)

    def plain() -> None:
        for batch in batches:
            of_query, of_key, of_value = attended(batch)
            F.scaled_dot_product_attention(of_query, of_key, of_value, is_causal=True, enable_gqa=True)

    def bitwise() -> None:
        for batch in batches:
            batch_invariant.causal_attention(*attended(batch))

    return plain, bitwise


def products(rows: int, dtype: torch.dtype) -> Pair:
    """A layer's linears."""
    hidden, inner = int(SIZES["hidden_size"]), int(SIZES["intermediate_size"])
    shapes = ((HEADS + 2 * KEY_HEADS) * SIZE, hidden), (hidden, HEADS * SIZE), (2 * inner, hidden), (hidden, inner)
    weights = [drawn(*shape, dtype=dtype) for shape in shapes]
    inputs = [drawn(rows, weight.shape[1], dtype=dtype) for weight in weights]

    def computed(linear: Callable[[Tensor, Tensor], Tensor]) -> None:
        for x, weight in zip(inputs, weights, strict=True):
            linear(x, weight)

    return partial(computed, F.linear), partial(computed, batch_invariant.linear)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(dtype)


if __name__ == "__main__":
    main()
