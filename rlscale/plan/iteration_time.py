"""About how long an iteration takes, by floating-point operations, memory traffic and bytes between ranks: a range."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.trainer_config import Recompute
from rlscale.plan.engine_memory import served_bytes
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout


@dataclass(frozen=True)
class Speeds:
    """What a device and its links can do; the defaults are an H100's."""

    flops: float = 989e12
    """Dense products in 16 bits per second."""
    memory: float = 3.35e12
    """Bytes per second of its memory."""
    inside: float = 400e9
    """Bytes per second between GPUs of a machine."""
    between: float = 45e9
    """Bytes per second of a GPU to another machine."""


REACHED = (0.18, 0.42)
"""Shares of a device's products that training reaches: the published runs are between (MFU 0.16 to 0.42)."""
DECODED = (0.25, 0.6)
"""Shares of the memory's speed that decoding reaches."""
FILLED = (0.3, 1.0)
"""Mean length of responses, as a share of the longest allowed: unknown before the run."""


@dataclass(frozen=True)
class Span:
    """From the shortest to the longest time, in seconds."""

    least: float
    most: float

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.most + other.most)

    def longer(self, other: Span) -> Span:
        """Of two that run beside each other."""
        return Span(max(self.least, other.least), max(self.most, other.most))


@dataclass(frozen=True)
class IterationTime:
    """An iteration, part by part."""

    generate: Span
    logprobs: Span
    train: Span
    sync: Span
    whole: Span
    bound: str
    """What takes most of it."""
    tokens_per_gpu: Span
    """Tokens of responses and prompts per second and GPU, the lower first."""
    utilisation: Span
    """Share of the trainer's products that the steps use (MFU), while it trains."""


def iteration_time(
    config: Config, shape: ModelShape, layout: RankLayout, engine_cache_tokens: float, needs: Needs, speeds: Speeds
) -> IterationTime:
    """The time of an iteration. What a run only evaluates with engines is no part of it."""
    sizes = Sizes.of(config)
    prompts, longest = config.rollout.max_prompt_tokens, config.rollout.max_response_tokens
    lengths = tuple(share * (prompts + longest) for share in FILLED)
    samples, ranks = sizes.samples_per_iteration, max(layout.ranks, 1)
    forward = tuple(
        samples * _forward(shape, length, share * longest) for length, share in zip(lengths, FILLED, strict=True)
    )
    epochs = config.algo.epochs_per_iteration
    again = 4 / 3 if config.trainer.recompute is Recompute.full else 1.0
    bubble = 1 + (layout.pipeline - 1) / (8 * layout.virtual)
    exchanged = _exchanged(shape, layout, speeds, sizes.steps_per_iteration)
    train = Span(
        3 * epochs * forward[0] * again / (ranks * speeds.flops * REACHED[1]) * bubble + exchanged,
        3 * epochs * forward[1] * again / (ranks * speeds.flops * REACHED[0]) * bubble + exchanged,
    )
    logprobs = Span(
        len(needs.passes) * forward[0] / (ranks * speeds.flops * REACHED[1]),
        len(needs.passes) * forward[1] / (ranks * speeds.flops * REACHED[0]),
    )
    generate = sync = Span(0.0, 0.0)
    if needs.engines and not needs.supervised:
        generate = _generate(config, shape, sizes, engine_cache_tokens, speeds)
        per_rank = served_bytes(config, shape) / max(config.rollout.gpus_per_engine, 1)
        sync = Span(per_rank / speeds.inside + 0.2, per_rank / speeds.between + 2.0)
    trainer = train + logprobs
    shared = config.cluster.placement is Placement.colocated or config.rollout.max_staleness == 0
    whole = (generate + trainer if shared else generate.longer(trainer)) + sync
    parts = {"generating": generate, "training": train, "log-probs": logprobs, "the weight sync": sync}
    bound = max(parts, key=lambda name: parts[name].least + parts[name].most)
    gpus = max(config.cluster.nodes * config.cluster.gpus_per_node, 1)
    useful, peak = 3 * epochs, ranks * speeds.flops
    return IterationTime(
        generate,
        logprobs,
        train,
        sync,
        whole,
        bound,
        Span(*sorted((samples * lengths[0] / whole.least / gpus, samples * lengths[1] / whole.most / gpus))),
        Span(*sorted((useful * forward[1] / (train.most * peak), useful * forward[0] / (train.least * peak)))),
    )


def _forward(shape: ModelShape, tokens: float, outputs: float) -> float:
    """FLOPs of a pass over a segment: as `trainer/megatron/steps/flops.py` counts them."""
    pairs = tokens * (tokens + 1) / 2
    attention = 4.0 * (shape.layers - shape.delta_layers) * shape.heads * shape.head_size * pairs
    return 2.0 * shape.visited * tokens + 2.0 * shape.hidden * shape.vocabulary * outputs + attention


def _exchanged(shape: ModelShape, layout: RankLayout, speeds: Speeds, steps: int) -> float:
    """Seconds of gradients between data-parallel ranks, if nothing of it is hidden behind computing."""
    if layout.copies == 1:
        return 0.0
    own = shape.parameters / (layout.tensor * layout.pipeline * max(layout.expert // layout.tensor, 1))
    link = speeds.inside if layout.ranks <= 8 else speeds.between
    return steps * 6.0 * own / link


def _generate(config: Config, shape: ModelShape, sizes: Sizes, cache_tokens: float, speeds: Speeds) -> Span:
    """Decoding reads the weights and the running requests' caches for every token; requests come in waves."""
    engines = max(sizes.engines, 1)
    gpus = max(config.rollout.gpus_per_engine, 1)
    longest, prompts = config.rollout.max_response_tokens, config.rollout.max_prompt_tokens
    samples, number = sizes.samples_per_iteration / engines, config.model.dtype.bytes
    weight = served_bytes(config, shape) / shape.parameters
    spans = []
    for share, reached in zip(FILLED, reversed(DECODED), strict=True):
        mean = share * longest
        fitting = max(1.0, cache_tokens / (prompts * share + mean))
        batch = max(1.0, min(samples, config.rollout.max_concurrent, fitting))
        visited = shape.visited + shape.hidden * shape.vocabulary
        read = min(shape.parameters, visited * batch) * weight  # of experts, those that some request visits
        cached = batch * (prompts * share + mean / 2) * shape.cache_numbers * number
        computed = 2.0 * visited * batch / (speeds.flops * 0.5)
        step = max((read + cached) / (speeds.memory * reached), computed) / gpus
        # The last responses of a batch run nearly alone, up to the longest.
        alone = (longest - mean) * min(shape.parameters, visited) * weight / (speeds.memory * reached) / gpus
        spans.append(samples / batch * mean * step + alone)
    return Span(min(spans), max(spans))
