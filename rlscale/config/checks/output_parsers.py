"""Parsers that are taken from the model's option have to be named there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext

OF_THE_MODEL = "model"
"""What `rollout.tool_parser` and `rollout.reasoning_parser` say for those of the model's option."""


def models_name_their_parsers(context: CheckContext) -> Iterator[str]:
    """A model without a parser of calls would call in vain; one without a parser of thinking may just not think."""
    rollout, model = context.config.rollout, context.config.model
    if rollout.tool_parser == OF_THE_MODEL and model.tool_parser is None:
        yield (
            f"rollout.tool_parser=model: {model.name} names no parser (model.tool_parser=null); "
            "give SGLang's name of one there, or set rollout.tool_parser=null"
        )
    if rollout.reasoning_parser == OF_THE_MODEL and model.reasoning_parser is None:
        context.notes.append(
            f"rollout.reasoning_parser=model: {model.name} names no parser (model.reasoning_parser=null), so thinking "
            "is not told from the rest"
        )


PARSER_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (models_name_their_parsers,)
