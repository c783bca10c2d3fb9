"""What the schema says of a field: the text below it in the source."""

from __future__ import annotations

import ast
import functools
import inspect

from rlscale.config.schema.section import Section


def meaning(kind: type[Section], name: str) -> str:
    """The one line below a field of a section, or of the section that it builds on."""
    return next(found[name] for cls in kind.__mro__ if name in (found := _meanings(cls)))


@functools.cache
def _meanings(cls: type) -> dict[str, str]:
    if not issubclass(cls, Section):
        return {}
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and text is not None:
            assert isinstance(text, ast.Constant)
            found[statement.target.id] = " ".join(str(text.value).split())
    return found
