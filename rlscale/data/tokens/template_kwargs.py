"""Variables that somebody sets for the chat template, held against those that it reads."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError

_TAKEN = ("messages", "add_generation_prompt")
"""What is rendered, and that the assistant's turn is opened: set for every prompt."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
"""A tag that transformers adds to Jinja."""


def check_template_kwargs(template: str | Mapping[str, str], given: Mapping[str, Any], key: str) -> None:
    """UserError naming `{key}.chat_template_kwargs.<name>` for a variable that the template does not read.

    `template` is Jinja text, or several by name, as tokenizers have them.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{key}.chat_template_kwargs={given}: must be a mapping, such as {{enable_thinking: false}}")
    read = variables_of(template)
    if read is None:
        return
    free = sorted(read - {*_TAKEN, *_SPECIAL, "raise_exception", "strftime_now"})
    for name in given:
        shown = f"{key}.chat_template_kwargs.{name}"
        if name in _TAKEN:
            raise UserError(f"{shown}: is set for every prompt and cannot be given")
        if name not in read:
            close = difflib.get_close_matches(name, free, 1)
            hint = f"did you mean {close[0]}?" if close else f"it reads {', '.join(free) or 'none'}"
            raise UserError(f"{shown}: is not a variable of the chat template; {hint}")


def variables_of(template: str | Mapping[str, str]) -> set[str] | None:
    """The variables that a template (or any of several) reads; None where it cannot be parsed.

    What transformers cannot read either is said when the first prompt is rendered.
    """
    texts = [template] if isinstance(template, str) else template.values()
    read = [_variables_of(text) for text in texts]
    return None if None in read else set().union(*filter(None, read))


@functools.lru_cache(maxsize=64)
def _variables_of(text: str) -> frozenset[str] | None:
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", text))
        return frozenset(meta.find_undeclared_variables(parsed))
    except (TemplateSyntaxError, RecursionError):
        return None
