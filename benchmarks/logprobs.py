"""What log-probs and entropies cost: `python benchmarks/logprobs.py`, about three minutes on one core.

The fused function of the trainer (`rlscale/trainer/megatron/steps/logprobs.py`: hidden states and output weight to
log-probs, no logits kept) beside the plain one in torch (F.linear, log_softmax, gather; with entropies also
-sum p log p), forward without gradient, and forward with backward to hidden states and weight. `--size TOKENS WORDS
HIDDEN` sets the size and may be given several times; `--full` is 8192 x 151936 x 1024, which takes the plain version
about 20 GB in float32 and on one core ten minutes or more for each repeat (`--repeats 1`, `--kinds log-probs` to keep
to the claim).

Both take turns, and the shortest of the repeats counts: on the CPU the computing time of the process (one thread, which
other processes lengthen little), on a GPU, where there is one, the clock. Peak memory is what the allocator held at the
most during one call over what it held before (hidden states, weight, labels), less the size of the gradients of hidden
states and weight where they are asked for (of few tokens that flatters the plain version, whose peak is before them).
The differences are the largest of each result, relative to the largest value of the plain one where that is above 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from machine import describe_machine, load_average
from memory import peak_bytes
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from rlscale.trainer.megatron.steps.logprobs import vocab_parallel_logprobs

FULL = (8192, 151936, 1024)
SIZES = [(2048, 32768, 512), (512, 151936, 1024)]
KINDS = ("log-probs", "entropies too")


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class _OneRank:
    """A tensor-parallel group of one."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


@dataclass
class Case:
    """One size, one kind of result, forward only or with backward."""

    size: tuple[int, int, int]
    kind: str
    backward: bool
    inputs: Inputs
    """Hidden states, weight, labels, and the gradient of the log-probs."""

    def calls(self) -> dict[str, Callable[[], list[Tensor]]]:
        """Both sides, each giving its results: log-probs, entropies if asked for, gradients with backward."""
        return {"fused": lambda: self._call(_fused), "plain": lambda: self._call(_plain)}

    def _call(self, run: Callable[..., tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        hidden, weight, labels, gradient = self.inputs
        with torch.set_grad_enabled(self.backward):
            logprobs, entropies = run(hidden, weight, labels, self.kind == KINDS[1])
            results = [logprobs.detach()] if entropies is None else [logprobs.detach(), entropies.detach()]
            if self.backward:
                results += torch.autograd.grad(logprobs, (hidden, weight), gradient)
        return results

    def gradient_bytes(self) -> int:
        """Size of the gradients that a call leaves."""
        return sum(x.numel() * x.element_size() for x in self.inputs[:2]) if self.backward else 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of log-probs fused with the output projection.")
    parser.add_argument("--size", nargs=3, type=int, action="append", metavar=("TOKENS", "WORDS", "HIDDEN"))
    parser.add_argument("--full", action="store_true", help="the size {} x {} x {} only".format(*FULL))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [FULL] if options.full else [tuple(size) for size in options.size or SIZES]
    console = Console(width=120, highlight=False)
    before = load_average()
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    tables = [_measure(device, sizes, options) for device in devices]
    machine = Table("machine", "", box=box.MARKDOWN)
    for name, value in {**describe_machine(), "load average at start, at end": f"{before}, {load_average()}"}.items():
        machine.add_row(name, value)
    console.print(f"{options.dtype}, one thread, best of {options.repeats}; {date.today()}")
    console.print("aims: time 1.15 of plain forward, 1.4 with backward; memory 0.125; difference 1e-5 (float32)")
    for table in (machine, *tables):
        console.print()
        console.print(table)


def _measure(device: torch.device, sizes: list[Any], options: argparse.Namespace) -> Table:
    table = Table(box=box.MARKDOWN)
    for name in (torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread", "", ""):
        table.add_column(name, no_wrap=True)
    for name in ("s", "plain", "ratio", "peak MiB", "plain", "ratio", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for size in sizes:
        inputs = _inputs(size, getattr(torch, options.dtype), device)
        for kind in options.kinds:
            for backward in (False, True):
                _add_row(table, Case(size, kind, backward, inputs), options.repeats, device)
    return table


def _inputs(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Hidden states of a norm's output and a weight that makes logits of about one and a half."""
    tokens, words, hidden = size
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=draw)
    weight = torch.randn(words, hidden, generator=draw).mul_(1.5 / hidden**0.5)
    labels = torch.randint(0, words, (tokens,), generator=draw)
    gradient = torch.randn(tokens, generator=draw)
    states, weight = (x.to(device, dtype).requires_grad_() for x in (states, weight))
    return states, weight, labels.to(device), gradient.to(device)


def _fused(hidden: Tensor, weight: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    group: Any = _OneRank()
    options: dict[str, Any] = {"temperature": 1.0, "vocabulary": len(weight), "entropy": entropy}
    return vocab_parallel_logprobs(hidden, weight, labels, group=group, **options)


def _plain(hidden: Tensor, weight: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    logp = F.linear(hidden, weight).float().log_softmax(-1)
    entropies = None
    if entropy:
        with torch.no_grad():
            entropies = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, labels[:, None])[:, 0], entropies


def _add_row(table: Table, case: Case, repeats: int, device: torch.device) -> None:
    calls = case.calls()
    own, plain = (call() for call in calls.values())
    difference = max(_difference(a, b) for a, b in zip(own, plain, strict=True))
    del own, plain
    peaks = [peak - case.gradient_bytes() for peak in peak_bytes(list(calls.values()), device)]
    seconds = [float("inf")] * 2
    for _ in range(repeats):
        seconds = [min(best, _seconds(call, device)) for best, call in zip(seconds, calls.values(), strict=True)]
    mib = [peak / 2**20 for peak in peaks]
    table.add_row(
        " x ".join(str(length) for length in case.size),
        case.kind,
        "and backward" if case.backward else "forward",
        *(f"{seconds[0]:.3f}", f"{seconds[1]:.3f}", f"{seconds[0] / seconds[1]:.2f}"),
        *(f"{mib[0]:.1f}", f"{mib[1]:.1f}", f"{mib[0] / mib[1]:.3f}", f"{difference:.1e}"),
    )


def _difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
