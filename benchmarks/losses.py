"""What the mathematics of a step costs: `python benchmarks/losses.py`, about a minute on one core.

Every policy loss, correction and KL estimator, the value loss, and the whole objective of each algorithm at 64k tokens,
forward and backward (corrections have no gradient: forward only), each beside plain torch on as many columns: the
product of the exponential of the first with all others, summed. Cases take turns, and the shortest of several repeats
counts. `--quick` repeats less often. Where there is a GPU everything is measured there too (by the clock, launches of
kernels included; on the CPU it is the computing time of the process).

Peak memory is what the allocator held at the most during one call, over what it held before (the inputs), divided by
the number of tokens; gradients of the inputs count. On the CPU it is the running sum of the allocations and frees that
torch.profiler records (in the allocator itself, so that nothing is missed), on a GPU torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch
from machine import describe_machine, load_average
from memory import peak_bytes
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlscale.algo import corrections, kl, losses
from rlscale.algo.critic import value_loss
from rlscale.config.composition.compose import compose
from rlscale.trainer.objective import Objective
from rlscale.trainer.value_objective import ValueObjective

TOKENS, ROWS = 65536, 64
OBJECTIVES = {
    "grpo": ["algo=grpo"],
    "grpo, KL k3 as a loss": ["algo=grpo", "algo.kl.placement=loss", "algo.kl.coef=0.001"],
    "grpo, tis": ["algo=grpo", "algo/correction=tis"],
    "dapo": ["algo=dapo"],
    "gspo": ["algo=gspo"],
    "gspo_token": ["algo=gspo_token"],
    "cispo": ["algo=cispo"],
    "sapo": ["algo=sapo"],
    "reinforce_pp": ["algo=reinforce_pp"],
    "ppo": ["algo=ppo"],
    "opd": ["algo=opd"],
}


@dataclass
class Measured:
    """One thing to call, beside plain torch on as many columns."""

    group: str
    name: str
    columns: tuple[str, ...]
    run: Callable[..., Tensor]
    """Takes the columns, returns a scalar."""
    gradient_of: tuple[str, ...] = ("logprobs",)
    seconds: dict[str, float] = field(default_factory=dict)
    """Shortest time of `own` and `plain`."""
    peak: dict[str, float] = field(default_factory=dict)
    """Bytes per token of both."""


class Columns:
    """Random columns [TOKENS] on a device, in `ROWS` segments whose first half is the prompt."""

    def __init__(self, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        normal = {name: torch.randn(TOKENS, generator=draw) for name in ("a", "b", "c", "d", "e", "v", "w", "r")}
        old = -normal["a"].abs()
        of_row = torch.arange(TOKENS) // (TOKENS // ROWS)
        mask = torch.arange(TOKENS) % (TOKENS // ROWS) >= TOKENS // ROWS // 2
        columns = {
            "logprobs": old + 0.1 * normal["b"],
            "old_logprobs": old,
            "rollout_logprobs": old + 0.01 * normal["c"],
            "ref_logprobs": old + 0.1 * normal["d"],
            "log_ratio": torch.where(mask, 0.3 * normal["c"], 0.0),
            "advantages": normal["e"],
            "entropy": normal["d"].abs(),
            "values": normal["v"],
            "old_values": normal["v"] + 0.1 * normal["w"],
            "returns": normal["r"],
            "loss_weight": mask / mask.sum(),
            "value_weight": mask / mask.sum(),
            "correction": normal["c"].exp(),
            "loss_mask": mask,
            "versions": torch.where(mask, 3, -1).int(),
        }
        self.device = device
        self._columns = {name: column.to(device) for name, column in columns.items()}
        self._of_row = of_row.to(device)
        self.version = torch.tensor(3, device=device)

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name]

    def segment_sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(ROWS).index_add(0, self._of_row, x)[self._of_row]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of losses, corrections, KL terms and objectives.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 3 if parser.parse_args().quick else 30
    torch.set_num_threads(1)
    console = Console(width=118, highlight=False)
    before = load_average()
    tables = [_measure(torch.device("cpu"), repeats)]
    if torch.cuda.is_available():
        tables.append(_measure(torch.device("cuda"), repeats))
    machine = Table("machine", "", box=box.MARKDOWN)
    for name, value in {**describe_machine(), "load average at start, at end": f"{before}, {load_average()}"}.items():
        machine.add_row(name, value)
    console.print(f"{TOKENS} tokens in {ROWS} segments, fp32, one thread, best of {repeats}; {date.today()}")
    for table in (machine, *tables):
        console.print()
        console.print(table)


def _measure(device: torch.device, repeats: int) -> Table:
    columns = Columns(device)
    cases = [*_policy_losses(columns), *_corrections(columns), *_kl_terms(), *_value_losses(), *_objectives(columns)]
    sides = [(case, side, call) for case in cases for side, call in _calls(case, columns).items()]
    for _, _, call in sides:
        call()
    peaks = peak_bytes([call for _, _, call in sides], device)
    for (case, side, _), peak in zip(sides, peaks, strict=True):
        case.peak[side] = peak / TOKENS
    for _ in range(repeats):
        for case, side, call in sides:
            case.seconds[side] = min(case.seconds.get(side, float("inf")), _seconds(call, device))
    return _table(cases, torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread")


def _policy_losses(x: Columns) -> Iterator[Measured]:
    mask, three = x["loss_mask"], ("logprobs", "old_logprobs", "advantages")
    by_token: dict[str, Callable[..., losses.PolicyLoss]] = {
        "clip": lambda *c: losses.clip(*c, eps_low=0.2, eps_high=0.2),
        "dual clip": lambda *c: losses.clip(*c, eps_low=0.2, eps_high=0.2, dual_clip=3.0),
        "gspo": lambda lp, old, a: losses.gspo(lp, old, a, mask, x.segment_sum, eps_low=3e-4, eps_high=4e-4),
        "gspo_token": lambda lp, old, a: losses.gspo_token(
            lp, old, a, mask, x.segment_sum, eps_low=3e-4, eps_high=4e-4
        ),
        "cispo": lambda *c: losses.cispo(*c, eps_low=1.0, eps_high=4.0),
        "sapo": lambda *c: losses.sapo(*c, tau_positive=1.0, tau_negative=1.05),
    }
    for name, loss in by_token.items():
        yield Measured("policy loss", name, three, lambda *c, loss=loss: loss(*c).loss.sum())
    yield Measured("policy loss", "sft", ("logprobs",), lambda lp: losses.sft(lp).loss.sum())


def _corrections(x: Columns) -> Iterator[Measured]:
    mask = x["loss_mask"]
    for kind in corrections.KINDS:
        for level in corrections.LEVELS:

            def run(log_ratio: Tensor, kind: str = kind, level: str = level) -> Tensor:
                return corrections.importance_weights(kind, log_ratio, mask, x.segment_sum, level=level).weights.sum()

            yield Measured("correction", f"{kind}, {level}", ("log_ratio",), run, gradient_of=())

    def rejected(log_ratio: Tensor) -> Tensor:
        bounds: dict[str, Any] = {"level": "geometric", "lower": 0.99, "upper": 1.01, "veto": 1e-4}
        return corrections.rejected(log_ratio, mask, x.segment_sum, **bounds).sum()

    def off_policy_masked(logprobs: Tensor, rollout: Tensor, advantages: Tensor) -> Tensor:
        return corrections.off_policy_masked(logprobs, rollout, advantages, mask, x.segment_sum, delta=0.1).sum()

    yield Measured("correction", "rejection and veto", ("log_ratio",), rejected, gradient_of=())
    three = ("logprobs", "rollout_logprobs", "advantages")
    yield Measured("correction", "opsm", three, off_policy_masked, gradient_of=())


def _kl_terms() -> Iterator[Measured]:
    for name in kl.ESTIMATORS:
        two = ("logprobs", "ref_logprobs")
        yield Measured("KL", name, two, lambda lp, ref, name=name: kl.kl(name, lp, ref)[0].sum())

    def unbiased(lp: Tensor, ref: Tensor, old: Tensor) -> Tensor:
        return kl.unbiased(kl.kl("k3", lp, ref)[0], lp, old)[0].sum()

    yield Measured("KL", "k3, unbiased", ("logprobs", "ref_logprobs", "old_logprobs"), unbiased)


def _value_losses() -> Iterator[Measured]:
    three = ("values", "old_values", "returns")
    for name, clip in (("clipped", 0.2), ("not clipped", None)):
        run = lambda *c, clip=clip: value_loss(*c, clip=clip).loss.sum()  # noqa: E731 - one expression
        yield Measured("value loss", name, three, run, gradient_of=("values",))


def _objectives(x: Columns) -> Iterator[Measured]:
    for name, overrides in OBJECTIVES.items():
        yield _objective(name, Objective.of(compose(overrides=[*overrides, "warm_start=null"]).algo), x)
    supervised = Objective.of(compose("arithmetic_sft").algo)
    columns = ("logprobs", "loss_weight")
    fields = {"loss_mask": x["loss_mask"]}

    def sft(logprobs: Tensor, weight: Tensor) -> Tensor:
        return supervised(logprobs, None, {**fields, "loss_weight": weight}, x.segment_sum)[0]

    yield Measured("objective, with metrics", "sft", columns, sft)
    critic = ValueObjective(compose(overrides=["algo=ppo", "warm_start=null"]).critic)
    names = ("values", "old_values", "returns", "value_weight")

    def value(values: Tensor, old: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        return critic(values, {**fields, "values": old, "returns": returns, "value_weight": weight})[0]

    yield Measured("objective, with metrics", "critic of ppo", names, value, gradient_of=("values",))


def _objective(name: str, objective: Objective, x: Columns) -> Measured:
    """A whole objective; the entropy is a metric only, as in a run without an entropy bonus."""
    read = ["old_logprobs", "loss_weight", "advantages", "rollout_logprobs"]
    read += ["ref_logprobs"] if objective.needs_reference else []
    fixed = {"loss_mask": x["loss_mask"], "versions": x["versions"], "version": x.version}

    def run(logprobs: Tensor, entropy: Tensor, *columns: Tensor) -> Tensor:
        return objective(logprobs, entropy, {**fixed, **dict(zip(read, columns, strict=True))}, x.segment_sum)[0]

    return Measured("objective, with metrics", name, ("logprobs", "entropy", *read), run)


def _plain(first: Tensor, *others: Tensor) -> Tensor:
    """What it is compared with."""
    product = first.exp()
    for other in others:
        product = product * other
    return product.sum()


def _calls(case: Measured, x: Columns) -> dict[str, Callable[[], None]]:
    """What is timed: one call, and the gradients of the columns that are asked for."""
    columns = [x[name].clone().requires_grad_(name in case.gradient_of) for name in case.columns]
    asked = [column for column in columns if column.requires_grad]

    def call(run: Callable[..., Tensor]) -> None:
        result = run(*columns)
        if asked:
            torch.autograd.grad(result, asked)

    return {"own": lambda: call(case.run), "plain": lambda: call(_plain)}


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """By the clock on a GPU; on the CPU the computing time of this process, which others lengthen little."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _table(cases: list[Measured], device: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for name in ("", device):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "plain ms", "ratio", "peak B/token", "plain"):
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        own, plain = case.seconds["own"], case.seconds["plain"]
        peaks = (f"{case.peak['own']:.0f}", f"{case.peak['plain']:.0f}")
        table.add_row(case.group, case.name, f"{own * 1e3:.2f}", f"{plain * 1e3:.2f}", f"{own / plain:.1f}", *peaks)
    return table


if __name__ == "__main__":
    main()
