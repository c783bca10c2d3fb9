"""Tokens that a draft proposes and the policy verifies, several in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Limit, PathKind, Unread, bounded, key
from rlscale.config.schema.section import Section

_OFF = Unread(
    lambda one: one.algorithm is Algorithm.none, " is read with an algorithm of speculation only; leave it out"
)
_TREE = Unread(lambda one: one.algorithm is Algorithm.ngram, " is not read with algorithm=ngram; leave it out")
_AHEAD = Limit(256, "no draft is right that far ahead")


class Algorithm(Enum):
    """Where proposals come from."""

    none = "none"
    """Nothing is proposed: a token in each pass."""
    mtp = "mtp"
    """The model's own layers that predict further tokens."""
    eagle = "eagle"
    """A head that was trained for the model and reads what its last layer makes."""
    eagle3 = "eagle3"
    """A head that reads what several layers of the model make."""
    standalone = "standalone"
    """A smaller model of its own."""
    ngram = "ngram"
    """What followed the same words before."""

    @property
    def has_draft(self) -> bool:
        """Whether it takes a model besides the policy."""
        return self in (Algorithm.eagle, Algorithm.eagle3, Algorithm.standalone)


@dataclass
class SpeculationConfig(Section):
    """Speculative decoding of the policy's engines. What is sampled is what the policy would sample without it."""

    algorithm: Algorithm = Algorithm.none
    """Who proposes: `mtp`, the model's own layers for it; `eagle`, `eagle3`, `standalone`, a `draft`; `ngram`, earlier
    text; `none`, nobody."""
    draft: str | None = key(None, path=PathKind.folder_or_name, unread=[_OFF])
    """Hugging Face folder or hub name of the draft; it keeps its weights while the policy is trained."""
    steps: int | None = bounded(None, at_least=1, limit=_AHEAD, unread=[_OFF, _TREE])
    """Passes of the draft before each of the policy's; null: as SGLang chooses by the model."""
    topk: int | None = bounded(None, at_least=1, limit=_AHEAD, unread=[_OFF, _TREE])
    """Branches that each pass of the draft opens; null: as SGLang chooses."""
    draft_tokens: int | None = bounded(None, at_least=2, limit=_AHEAD, unread=[_OFF])
    """Tokens that the policy verifies in a pass; null: as SGLang chooses."""
