"""A string that does not show itself where whole objects are printed."""

from __future__ import annotations


class Secret(str):
    """A key. `repr` hides it, and with it every dump of a dict or dataclass that holds it (SGLang prints its whole
    arguments at start-up); `str`, comparison and formatting give the value, which the HTTP headers need."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
