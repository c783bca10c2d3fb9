"""What publishing weights costs the trainer: into shared memory against a plain copy, and as deltas of one small step.

`python benchmarks/weights.py [megabytes]`; no engine takes part, but two rows do what one does. Weights are random (std
0.02) in bf16; a step is Adam's first at lr 1e-6 on float32 masters, a change of at most lr each. Seconds are those of
the processor (user and system), on one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from rlscale.platform.tensor_sum import TensorSum
from rlscale.weights.delta.delta_encoding import DeltaEncoding, decode, encode
from rlscale.weights.transports import flat_bucket

T = TypeVar("T")
LR = 1e-6


def main() -> None:
    torch.set_num_threads(1)
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    random = torch.Generator().manual_seed(0)
    old = (torch.randn(megabytes * 2**19, generator=random) * 0.02).bfloat16()
    gradient = torch.randn(old.shape, generator=random)
    new = (old.float() - LR * gradient / (gradient.abs() + 1e-8)).bfloat16()  # Adam's first step: the sign of each
    print("| what | CPU s | GB/s |\n|---|---|---|")
    target = torch.zeros_like(new)
    row("plain copy", new, lambda: target.copy_(new))
    named = [("w", new)]
    entries, size = flat_bucket.contents(named)

    def fresh() -> flat_bucket.SharedBytes:
        shared = flat_bucket.SharedBytes(size)
        flat_bucket.fill(shared.flat, named, entries)
        shared.remove()
        return shared

    shared = row("into a new file in shared memory", new, fresh)
    row("into one that was used before", new, lambda: flat_bucket.fill(shared.flat, named, entries))
    row("the same, and its checksum, piece by piece", new, lambda: flat_bucket.fill_summed(shared.flat, named, entries))
    row("the checksum of it, as an engine verifies", new, lambda: flat_bucket.sum_of(shared.flat, size))
    row("out of it, as an engine loads", new, lambda: target.copy_(shared.flat.view(new.dtype)))
    row("the checksum of every tensor", new, lambda: TensorSum.of(new))
    before, after = (tensor.view(torch.uint8).numpy() for tensor in (old, new))
    payloads = {
        each: row(f"delta, {each.value}", new, partial(encode, each, after, before, 2)) for each in DeltaEncoding
    }
    for each, payload in payloads.items():
        found = row(f"patching, {each.value}", new, partial(decode, each, payload, before, 2))
        assert (found == after).all()
    print(f"\nunchanged bytes at lr {LR:g} in bf16: {100 * (before == after).mean():.2f} %")
    for each, payload in payloads.items():
        print(f"payload, {each.value}: {100 * len(payload) / len(after):.2f} % of the weights")


def row(what: str, weights: torch.Tensor, do: Callable[[], T]) -> T:
    """Print a line of the table; what `do` returned."""
    began = time.process_time()
    found = do()
    seconds = time.process_time() - began
    print(f"| {what} | {seconds:.3f} | {weights.nbytes / seconds / 1e9:.2f} |")
    return found


if __name__ == "__main__":
    main()
