"""What equal bits would cost a gated delta net, which trainer and engines sum in two orders.

`python benchmarks/delta_net_orders.py`: CPU time on one thread, the middle of 5, of one net of 16 heads with keys and
values of 128 in float32. A trainer's pass over 16 sequences of 256 tokens: by chunks, as it is, and token by token, as
an engine generates. A step of an engine for 16 requests: a token, as it is, and a whole chunk anew for each token.
"""

from __future__ import annotations

from functools import partial

import torch
from machine import describe_machine, load_average, milliseconds
from torch import Tensor

from rlscale.platform.gated_delta_rule import CHUNK, gated_delta_rule, unit_length

SEQUENCES, HEADS, TOKENS, SIZE, TIMES = 16, 16, 256, 128, 5
Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Query, key, value, logarithm of the decay, share."""


def main() -> None:
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print("| part | as it is | in the other side's order |\n" + "|---" * 3 + "|")
    state = torch.randn(SEQUENCES, HEADS, SIZE, SIZE)
    with torch.no_grad():
        for part, ways in {
            "a trainer's pass": (partial(gated_delta_rule, *drawn(TOKENS)), partial(one_by_one, *drawn(TOKENS))),
            "a step of an engine": tuple(partial(gated_delta_rule, *drawn(n), state=state) for n in (1, CHUNK)),
        }.items():
            plain, other = milliseconds(TIMES, *ways)
            print(f"| {part} | {plain:.1f} ms | {other:.1f} ms ({other / plain:.1f} x) |", flush=True)


def drawn(tokens: int) -> Given:
    """What `gated_delta_rule` takes, of so many tokens of each sequence."""
    shape = SEQUENCES, HEADS, tokens
    query, key, value = (torch.randn(*shape, SIZE) for _ in range(3))
    return unit_length(query), unit_length(key), value, -torch.rand(shape), torch.rand(shape)


def one_by_one(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, share: Tensor) -> Tensor:
    """The same of whole sequences, each token from the matrices that the one before it left."""
    state, outputs = query.new_zeros(SEQUENCES, HEADS, SIZE, SIZE), []
    decay, query = log_decay.exp(), query * SIZE**-0.5
    for token in range(query.shape[2]):
        q, k, v = (x[:, :, token, None] for x in (query, key, value))  # [sequences, heads, 1, size]
        state.mul_(decay[:, :, token, None, None])
        missing = (v - k @ state).mul_(share[:, :, token, None, None])
        state += k.transpose(-1, -2) * missing
        outputs.append(q @ state)
    return torch.cat(outputs, 2)


if __name__ == "__main__":
    main()
