"""Modules of other packages that are changed right after their import, by an import hook."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class AdaptingLoader(importlib.abc.Loader):
    """The loader that a module has anyway, followed by its adaptation."""

    def __init__(self, loader: Any, adapt: Callable[[Any], None]) -> None:
        self._loader = loader
        self._adapt = adapt

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        self._adapt(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source and the like, for tracebacks and torch's source readers


@dataclass(frozen=True)
class AdaptingFinder(importlib.abc.MetaPathFinder):
    """Gives the modules that are to be adapted a loader that does so; finds nothing else."""

    adaptations: Mapping[str, Callable[[Any], None]]
    """Module -> what is changed in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.adaptations:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = AdaptingLoader(spec.loader, self.adaptations[fullname])
        return spec


def adapts_now(owner: Any, mark: str) -> bool:
    """Whether a class is to be adapted: the first time that this is asked under a mark, which it then bears."""
    if hasattr(owner, mark):
        return False
    setattr(owner, mark, True)
    return True
