"""Engines without a model: how long what takes, how long responses are, what goes wrong. Also all of `simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Limit, bounded, key, path_key
from rlscale.config.schema.limits import DEVICES, PATIENCE, SEED, TOKENS
from rlscale.config.schema.section import Section

_RATE = Limit(1e12, "nothing computes that many tokens in a second")
_SECONDS = Limit(31_536_000, "that is a year")
_LARGEST_CACHE = Limit(1e10, "no engine holds that many tokens")


class LengthLaw(Enum):
    """The distribution of the lengths of responses."""

    log_normal = "log_normal"
    uniform = "uniform"
    constant = "constant"
    measured = "measured"


@dataclass
class LengthsConfig(Section):
    """How long responses are, in tokens with the one that ends them."""

    law: LengthLaw = LengthLaw.log_normal
    """`log_normal` around the median; `uniform` from 1 to twice the median; `constant`: the median; `measured`: those
    of a file."""
    median: float = bounded(1000.0, at_least=1, limit=TOKENS)
    """Median length; not read by `measured`. `simulate` takes an eighth of `rollout.max_response_tokens`."""
    sigma: float = bounded(1.0, at_least=0, limit=Limit(5, "half of the responses would be a single token"))
    """Of `log_normal`, the standard deviation of the logarithm."""
    cap: float = bounded(20.0, at_least=1, limit=Limit(1e6, "it would never be reached"))
    """Of `log_normal`, the longest response in medians."""
    prompt_share: float = bounded(0.64, at_least=0, at_most=1)
    """How much of the variance lies between prompts: 1 gives all samples of a prompt the same length, 0 makes them
    independent of it."""
    path: str | None = path_key(None)
    """Of `measured`, a file with one length per line."""


@dataclass
class FaultsConfig(Section):
    """What goes wrong, each as the share of the requests that it befalls. Drawn from the engine's seed."""

    lost: float = bounded(0.0, at_least=0, at_most=1)
    """Requests whose connection breaks before the engine has read them."""
    stalled: float = bounded(0.0, at_least=0, at_most=1)
    """Requests that are finished and never answered."""
    duplicated: float = bounded(0.0, at_least=0, at_most=1)
    """Requests that are finished, and whose connection breaks before the answer: the client asks again."""
    rubbish: float = bounded(0.0, at_least=0, at_most=1)
    """Requests that are answered with a log-prob that is not a number."""
    crashed: float = bounded(0.0, at_least=0, at_most=1)
    """Requests at whose end the engine dies, before it answers. It is back after `restart_s`, with the weights that it
    was started with."""
    restart_s: float = bounded(30.0, above=0, limit=_SECONDS)
    """Seconds that a dead engine is away."""


@dataclass
class SimulatedEngineConfig(Section):
    """One engine: its speed, its slots, its cache."""

    decode_s: float = bounded(0.02, above=0, limit=_SECONDS)
    """Seconds of a decoding step for one request."""
    half_batch: float = bounded(64.0, above=0, limit=Limit(1e9, "a step would take as long for any number of requests"))
    """Requests at which a step takes twice as long as for none: a step of b takes decode_s x (1 + b / half_batch)."""
    prefill_tokens_per_s: float = bounded(20_000.0, above=0, limit=_RATE)
    """Prompt tokens read in a second, during which no request decodes."""
    slots: int = bounded(32, at_least=1, limit=Limit(100_000, "no engine runs that many requests at once"))
    """Requests that run at once; further ones wait in the engine's queue."""
    cache_tokens: int = bounded(1_000_000, at_least=1, limit=_LARGEST_CACHE)
    """Tokens whose keys and values fit. When they are used up, the request with the shortest response goes back into
    the queue, and what it had is read again later (a preemption)."""
    context: int = bounded(1_000_000, at_least=1, limit=TOKENS)
    """Longest prompt with response, in tokens; longer prompts are refused."""
    vocabulary: int = bounded(16, at_least=6, limit=Limit(1e7, "no model has that many tokens"))
    """Number of tokens; those below `first_token` are never generated, but for the one that ends a response."""
    first_token: int = bounded(4, at_least=1, limit=Limit(1e7, "no model has that many tokens"))
    """Lowest token that is generated."""
    end_token: int = bounded(3, at_least=0, limit=Limit(1e7, "no model has that many tokens"))
    """The token that ends a response, besides those that a request names."""
    update_s: float = bounded(0.0, at_least=0, limit=_SECONDS)
    """Seconds of a weight update."""
    lengths: LengthsConfig = key(LengthsConfig)
    """How long responses are."""
    faults: FaultsConfig = key(FaultsConfig)
    """What goes wrong."""
    seed: int = bounded(0, at_least=0, limit=SEED)
    """Seed of lengths of prompts and of faults; what is generated depends on the seeds of the requests."""


@dataclass
class SimulationConfig(Section):
    """What `python -m rlscale simulate` takes besides a recipe: the keys `simulator.*`."""

    engine: SimulatedEngineConfig = key(SimulatedEngineConfig)
    """The engines; as many as `engines`."""
    engines: int | None = bounded(None, at_least=1, limit=DEVICES)
    """Number of engines; null takes `rollout.engines`, or what the cluster's GPUs give."""
    iterations: int = bounded(20, at_least=1, limit=PATIENCE)
    """Iterations that are simulated and measured."""
    warm_up: int = bounded(5, at_least=0, limit=PATIENCE)
    """Iterations before those, until the buffer and the engines are as full as they will be."""
    training_s: float | None = bounded(None, at_least=0, limit=_SECONDS)
    """Seconds of training on a batch, whatever it holds."""
    training_tokens_per_s: float | None = bounded(None, above=0, limit=_RATE)
    """Tokens trained in a second: training then takes the batch's tokens over this."""
    training_share: float = bounded(0.5, at_least=0, limit=Limit(1000, "nothing but training would be seen"))
    """Without either of them: training takes this part of the time in which full engines generate a batch."""
    sync_s: float = bounded(0.0, at_least=0, limit=_SECONDS)
    """Seconds of a weight sync before the engines are told, in which nothing is generated."""
    reward_s: float = bounded(0.0, at_least=0, limit=_SECONDS)
    """Seconds of a reward."""
    solved: float = bounded(0.5, at_least=0, at_most=1)
    """Share of the samples with reward 1, the others get 0."""
    prompt_tokens: int | None = bounded(None, at_least=2, limit=TOKENS)
    """Tokens of a prompt; null takes half of `rollout.max_prompt_tokens`."""
    advice: bool = True
    """Simulate a few other settings as well, and say which would help most."""
