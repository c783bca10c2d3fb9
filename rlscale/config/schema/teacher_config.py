"""The teacher of on-policy distillation: a frozen model that scores the policy's own tokens."""

from __future__ import annotations

from dataclasses import dataclass

from rlscale.config.schema.about import PathKind, path_key
from rlscale.config.schema.section import Section


@dataclass
class TeacherConfig(Section):
    """Where the teacher comes from. It must have the policy's tokenizer."""

    path: str | None = path_key(None, PathKind.folder_or_name)
    """Hugging Face folder or hub name of the teacher."""
    recipe: str | None = path_key(None, PathKind.recipe)
    """Recipe whose finished model is the teacher; it is run first when its result is missing."""
