"""Is `data.first` said where it is read: of what a run trains on, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.data_sections import evaluation_sections
from rlscale.config.schema.data_config import MixtureData


def first_prompts_are_trained_on(context: CheckContext) -> Iterator[str]:
    """Evaluation counts its prompts otherwise, and a mixture is cut as a whole."""
    config = context.config
    for key, data in evaluation_sections(config).items():
        if data.first is not None and config.eval.enabled and data.first != config.data.first:
            yield f"{key}.first={data.first} is not read: an evaluation takes eval.prompts; leave it out"
    if isinstance(config.data, MixtureData):
        for name, one in config.data.sources.items():
            if one.data.first is not None:
                yield f"data.sources.{name}.data.first={one.data.first} is not read: data.first cuts the whole mixture"


FIRST_PROMPTS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (first_prompts_are_trained_on,)
