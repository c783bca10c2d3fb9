"""What OmegaConf asks of a class, answered once: whether it is one of a schema, and of which types its fields are.

It asks the first of every value that it is given and of every node that it looks at, and works out the types anew for
each section that it makes. Its version is pinned; test_quick_kinds.py holds the answers against its own.
"""

from __future__ import annotations

import functools
from typing import Any

from omegaconf import _utils, base, basecontainer, dictconfig, listconfig, omegaconf

own_answer = _utils.is_structured_config
"""OmegaConf's: whether an object, or a class, is a dataclass or one of attrs."""


def is_structured(obj: Any) -> bool:
    """The same."""
    kind = obj if isinstance(obj, type) else type(obj)
    return own_answer(obj) if kind.__module__ == "typing" else _of_kind(kind)


_of_kind = functools.cache(own_answer)
for module in (_utils, base, basecontainer, dictconfig, listconfig, omegaconf):
    if hasattr(module, own_answer.__name__):
        vars(module)[own_answer.__name__] = is_structured
vars(_utils)["get_type_hints"] = functools.cache(_utils.get_type_hints)
