"""What the fleet of a model beside the policy is started with: the run's configuration, with what is its own."""

from __future__ import annotations

from dataclasses import replace

from rlscale.config.schema import Config
from rlscale.config.schema.rollout_config import Concurrency, OnSync
from rlscale.config.schema.speculation_config import SpeculationConfig
from rlscale.families.served_form import WeightForm


def serving_beside(config: Config, name: str) -> Config:
    """The configuration of the fleet that serves the model of that name in `rollout.models`.

    Nobody trains on what it generates, so nothing is asked of its engines that the policy's must be able to do. One
    that follows the policy holds its weights in their form; its requests are kept while new ones come.
    """
    model = config.rollout.models[name]
    follows = model.follows_policy
    rollout = replace(
        config.rollout,
        engines=model.engines,
        engines_at_least=None,
        engines_at_most=None,
        engine_groups={},
        gpus_per_engine=model.gpus_per_engine,
        threads_per_engine=model.threads_per_engine,
        engine_urls=model.engine_urls,
        engine_key_file=model.engine_key_file,
        sglang={"served_model_name": name, **model.sglang},
        router={"policy": "round_robin", **model.router},
        weights=config.rollout.weights if follows else WeightForm.as_trained,
        quantised_activations=config.rollout.quantised_activations and follows,
        concurrency=Concurrency.fixed,
        on_sync=OnSync.retract if follows else OnSync.wait,
        models={},
        speculation=SpeculationConfig(),
    )
    lora = config.model.lora if follows else None
    own = replace(config.model, dtype=model.dtype or config.model.dtype, lora=lora)
    # Nobody drains its engines one after another, so all of them take weights at once.
    return replace(config, rollout=rollout, model=own, weights=replace(config.weights, max_engines_at_once=None))
