"""Whether a class has the methods of a protocol, with parameters that the run's calls fit."""

from __future__ import annotations

import inspect
from typing import Any

from rlscale.trainer.hook_contract.findings import Finding, Status


def check_signatures(target: type[Any], protocol: type[Any]) -> list[Finding]:
    """One finding per method of the protocol."""
    return [_method(target, name, wanted) for name, wanted in vars(protocol).items() if _is_method(name, wanted)]


def _is_method(name: str, value: Any) -> bool:
    return inspect.isfunction(value) and (not name.startswith("_") or name == "__len__")


def _method(target: type[Any], name: str, wanted: Any) -> Finding:
    shown = f"{name}{_without_types(wanted)}"
    found = getattr(target, name, None)
    if not callable(found):
        return Finding(name, Status.failed, shown, "there is no such method")
    parameters = list(inspect.signature(wanted).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = sum(p.default is p.empty for p in positional)
    named = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        signature = inspect.signature(found)
        for count in {needed, len(positional)}:
            signature.bind(None, *([None] * count), **named)
    except TypeError as error:
        return Finding(name, Status.failed, shown, f"{name}{_without_types(found)}: {error}")
    return Finding(name, Status.passed, shown, "it takes that")


def _without_types(function: Any) -> str:
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))
