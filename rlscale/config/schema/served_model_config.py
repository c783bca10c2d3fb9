"""A model that is served beside the policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.about import PathKind, Scope, Unread, Where, bounded, key, path_key
from rlscale.config.schema.dtype import DType
from rlscale.config.schema.limits import CORES, DEVICES
from rlscale.config.schema.section import Section

_OTHERS = Unread(
    lambda model: bool(model.engine_urls),
    " is not read with engine_urls beside it: those engines run already; leave it out",
)
_NO_GPUS = Unread(Where.cpu, " has no meaning on the CPU; set it to 1")
_GPUS_THREADS = Unread(Where.gpus, " is not read on GPUs; leave it out")


@dataclass
class ServedModelConfig(Section):
    """Engines and a router of its own; rewards and environments reach it by its name in `rollout.models`."""

    path: str | None = path_key(None, PathKind.folder_or_name)
    """Hugging Face folder or hub name; with `engine_urls`, the path that those engines say they serve (null: any)."""
    dtype: DType | None = key(None, unread=[_OTHERS])
    """Type of its weights; null: `model.dtype`."""
    follows_policy: bool = False
    """Whether it is the policy itself: started from the policy's folder, and given its weights at every sync."""
    engines: int = bounded(1, at_least=1, limit=DEVICES, scope=Scope.execution, unread=[_OTHERS])
    """Engines that serve it."""
    gpus_per_engine: int = bounded(1, at_least=1, limit=DEVICES, scope=Scope.execution, unread=[_NO_GPUS, _OTHERS])
    """GPUs of one of its engines."""
    threads_per_engine: int = bounded(
        1, at_least=1, limit=CORES, scope=Scope.execution, unread=[_GPUS_THREADS, _OTHERS]
    )
    """Threads of one of its engines on the CPU."""
    engine_urls: list[str] = key(list, scope=Scope.this_run)
    """Engines that somebody else started; given, none are started here and none are ended."""
    engine_key_file: str | None = path_key(None, PathKind.file, scope=Scope.this_run)
    """File with the API key of the engines in `engine_urls`; null if they ask for none."""
    sglang: dict[str, Any] = field(default_factory=dict)
    """Any option of SGLang's ServerArgs for its engines, by its own name."""
    router: dict[str, Any] = field(default_factory=dict)
    """Any option of the RouterArgs of its router, by its own name."""
