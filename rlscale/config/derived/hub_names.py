"""Which of a run's models are names on the Hugging Face hub that this machine has not downloaded yet."""

from __future__ import annotations

from rlscale.config.derived.needs import Needs
from rlscale.config.hf_architecture import is_here, is_hub_name
from rlscale.config.schema import Config


def not_downloaded(config: Config) -> list[str]:
    """The models and tokenizers of hub names that would have to be downloaded first, as key=name."""
    named = {"model.path": config.model.path, "model.tokenizer": config.model.tokenizer}
    if Needs.of(config).critic:
        named["critic.model.path"] = config.critic.model.path
    if Needs.of(config).teacher:
        named["teacher.path"] = config.teacher.path
    named["rollout.speculation.draft"] = own_draft(config)
    named |= {f"rollout.models.{name}.path": path for name, path in served_paths(config).items()}
    return [
        f"{key}={name}"
        for key, name in named.items()
        if name and is_hub_name(name) and not is_here(name, weights=key != "model.tokenizer")
    ]


def own_draft(config: Config) -> str | None:
    """The folder, or hub name, of the draft of the engines that the run starts; None where it needs none."""
    starts = Needs.of(config).engines and not config.rollout.engine_urls
    return config.rollout.speculation.draft if starts else None


def served_paths(config: Config) -> dict[str, str]:
    """The folders, or hub names, of the models of `rollout.models` that the run starts engines for, by their names."""
    models = config.rollout.models.items() if Needs.of(config).engines else ()
    return {name: one.path for name, one in models if one.path is not None and not one.engine_urls}
