"""How samples are generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.component import component, target_field
from rlscale.config.schema.section import Section, path_field


class OnSync(Enum):
    """What happens to a generation in flight when the weights change."""

    wait = "wait"
    abort_and_resume = "abort_and_resume"
    in_place = "in_place"


@dataclass
class RolloutConfig(Section):
    """Sizes, sampling parameters and engines of the rollout."""

    _target_: str = target_field("rlscale.rollout.service.RolloutService")
    """Class of the service that generates: a rlscale.rollout.protocol.Service."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of a service of your own, by name, besides its specification."""
    filter: dict[str, Any] = component("rlscale.rollout.filters.keep_all")
    """`_target_` of a rlscale.rollout.filters.Filter: which finished groups are trained on (group `rollout/filter`)."""
    groups_per_iteration: int = 64
    """Groups (prompts) that one iteration collects and trains on."""
    samples_per_group: int = 8
    """Samples generated for each prompt."""
    max_prompt_tokens: int = 1024
    """Longest prompt in tokens; longer ones are dropped and counted."""
    max_response_tokens: int = 1024
    """Longest response in tokens; generation is cut there."""
    temperature: float = 1.0
    """Sampling temperature; the trainer divides its logits by the same."""
    top_p: float = 1.0
    """Nucleus sampling; 1 switches it off. Below 1 only with `train_on_truncated_sampling`."""
    top_k: int = -1
    """Sampling from the k most likely tokens; -1 switches it off. Otherwise see `train_on_truncated_sampling`."""
    train_on_truncated_sampling: bool = False
    """Train on samples of `top_p` or `top_k`, although log-probs, ratios and KL are those of the full softmax."""
    max_staleness: int = 0
    """Bound on the trainer's weight version minus the version that generated a token; 0 is on-policy."""
    on_sync: OnSync = OnSync.wait
    """What happens to a generation in flight when the weights change."""
    max_concurrent: int = 256
    """Requests in flight per engine."""
    request_timeout_s: float = 600.0
    """Seconds after which one generation request counts as failed."""
    request_retries: int = 3
    """Times a failed request is sent again before its sample counts as failed."""
    max_failure_rate: float = 0.2
    """Share of failed samples in the last iteration's worth past which the run stops."""
    step_timeout_s: float = 60.0
    """Seconds that an environment of several turns has for each call; past them the sample has failed."""
    engines: int = 1
    """Engines that serve the policy."""
    gpus_per_engine: int = 1
    """GPUs of one engine (its tensor-parallel size); ignored on the CPU."""
    engine_urls: list[str] = field(default_factory=list)
    """Engines that somebody else started; given, none are started here."""
    engine_key_file: str | None = path_field(None)
    """File with the API key of the engines in `rollout.engine_urls`; null if they ask for none."""
    sglang: dict[str, Any] = field(default_factory=dict)
    """Any option of SGLang's ServerArgs, by its own name."""
    router: dict[str, Any] = field(default_factory=dict)
    """Any option of the router's RouterArgs, by its own name."""
