"""Responses that are JSON of a given form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, SchemaError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from rlscale.config.errors import UserError

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class JsonSchema:
    """1.0 if the response is JSON that is valid under the schema, otherwise 0.0.

    The JSON is all of the response behind its thoughts, or its only fenced block. `schema`: the schema, or the path of
    a file with it; with null each row's label is its schema (an object, or its text). Nothing is fetched for a $ref.
    NaN and infinities are not JSON.
    """

    def __init__(self, schema: dict[str, Any] | str | None = None) -> None:
        if isinstance(schema, str):
            try:
                schema = json.loads(Path(schema).expanduser().read_text())
            except (OSError, ValueError) as error:
                raise UserError(f"schema={schema}: cannot be read: {error}") from None
        try:
            self._schema = None if schema is None else _validator(schema)
        except ValueError as error:
            raise UserError(f"schema: {error}") from None

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if the label has to be a schema and is none."""
        validator = self._schema or _validator(label)
        try:
            value = json.loads(_json_text(response), parse_constant=_refuse)
            return float(validator.is_valid(value))
        except Unresolvable as error:
            raise ValueError(f"the schema refers to what it does not hold: {error}") from error
        except (ValueError, RecursionError):
            return 0.0

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label has to be a schema and is none."""
        if self._schema is None:
            _validator(label)


def _json_text(response: str) -> str:
    text = response.rpartition("</think>")[2].strip()
    blocks = _FENCE.findall(text)
    return blocks[0] if len(blocks) == 1 else text


def _validator(schema: Any) -> Any:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, (Mapping, bool)):
        raise ValueError(f"a schema is a JSON object, not of type {type(schema).__name__}")
    kind = validators.validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"it is not a JSON schema: {error.message}") from None
    return kind(schema, registry=Registry())


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
