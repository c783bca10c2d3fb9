"""What a key is besides its type and default, said on its field: its bounds, whether it holds a path, what it decides.

    lr: float = bounded(1e-6, above=0, limit=Limit(1.0, "Adam moves every weight by up to the learning rate"))

`rlscale.config.keys` walks over the keys of a configuration with what is said here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field
from enum import Enum
from math import inf, isfinite
from typing import Any

_ABOUT = "about"


class PathKind(Enum):
    """What a path may also be, besides a path."""

    path = "path"
    file = "a file, which must be there before a run starts"
    folder_or_name = "a folder, or a name on the Hugging Face hub"
    recipe = "a file with a recipe, or the name of a shipped one"


class Scope(Enum):
    """What a value decides."""

    result = "result"
    """What is computed: runs that differ in it are different runs (`config_hash`)."""
    execution = "execution"
    """Where, by how many, within which limits: part of the recipe, and another value computes the same."""
    this_run = "this run"
    """Where and how one run ran: no part of the recipe either."""


@dataclass(frozen=True)
class Limit:
    """How far a number without an end of its own may go before it can only be a slip, and why there is an end."""

    most: float
    why: str
    least: float = 0.0
    """Smallest value other than 0; the bounds say whether 0 is one."""


@dataclass(frozen=True)
class Bounds:
    """The interval of a number."""

    low: float
    with_low: bool
    """Whether the lower end belongs to it."""
    high: float
    with_high: bool
    limit: Limit | None
    """For an interval without an end."""
    off: int | None
    """A value outside that switches the key off."""

    def problem(self, value: float) -> str | None:
        """What is wrong with a value, as "must be above 0"; None for one inside."""
        above = value >= self.low if self.with_low else value > self.low
        below = value <= self.high if self.with_high else value < self.high
        if value == self.off or (isfinite(value) and above and below):
            return None
        finite = "" if isfinite(value) else "a finite number"
        return f"must be {', '.join(filter(None, [finite, self.words]))}"

    @property
    def words(self) -> str:
        """The interval in words; empty where it has no end."""
        if self.low == -inf:
            return ""
        low = f"{'at least' if self.with_low else 'above'} {self.low:g}"
        if self.off is not None:
            return f"{low}, or {self.off} to switch it off"
        return low if self.high == inf else f"{low} and {'at most' if self.with_high else 'below'} {self.high:g}"


class Where(Enum):
    """Runs of a kind."""

    supervised = "supervised training"
    sampled = "reinforcement learning"
    cpu = "on the CPU"
    gpus = "on GPUs"
    replayed = "rollout.replay"


@dataclass(frozen=True)
class Unread:
    """Where a value other than the default is read by nothing, which is refused. Of several, the first that holds."""

    where: Where | Callable[[Any], bool]
    """The runs, or whether it is so by the section in which this is said."""
    why: str
    """What follows "key=value" in the message, with {key}, {default}, {algo} (its name) and {section} (that one)."""


SUPERVISED = Unread(Where.supervised, ": supervised training (algo/loss=sft) has no use for it; set {key}={default}")
"""Of keys, or whole sections, that are about samples."""


@dataclass(frozen=True)
class About:
    """What is said of a key."""

    bounds: Bounds | None = None
    path: PathKind | None = None
    scope: Scope = Scope.result
    unread: tuple[Unread, ...] = ()
    component: str | None = None
    """The shipped target, of a key that holds a component or names it (rlscale.config.schema.component)."""
    options: str | None = None
    """Whose options the key passes on, by their own names: a key of `rlscale.config.passthrough.KINDS`."""
    shared: str | None = None
    """Why a critic cannot have another value than the policy."""
    describes: bool = False
    """Whether it only says something about the model of its section, and gives it none."""


_NOTHING = About()


@functools.cache
def about(item: Field[Any]) -> About:
    """What is said of the key of a field."""
    found = item.metadata.get(_ABOUT, _NOTHING)
    assert isinstance(found, About)
    return found


def key(
    default: Any,
    *,
    path: PathKind | None = None,
    scope: Scope = Scope.result,
    unread: Sequence[Unread] = (),
    shared: str | None = None,
    describes: bool = False,
) -> Any:
    """A key of any type; one whose default is a list, a mapping or a section is given the class of that."""
    return described(default, About(None, path, scope, tuple(unread), shared=shared, describes=describes))


def path_key(
    default: Any, kind: PathKind = PathKind.path, *, scope: Scope = Scope.result, shared: str | None = None
) -> Any:
    """A key whose value is a path; `rlscale.config.composition.paths` says where a relative one starts."""
    return key(default, path=kind, scope=scope, shared=shared)


def passed_on(kind: str) -> Any:
    """A key whose value are options of an installed package, by their own names; `kind` is whose (`About.options`)."""
    return described(dict, About(options=kind))


def bounded(
    default: Any,
    *,
    at_least: float = -inf,
    above: float | None = None,
    at_most: float | None = None,
    below: float = inf,
    limit: Limit | None = None,
    off: int | None = None,
    scope: Scope = Scope.result,
    unread: Sequence[Unread] = (),
    shared: str | None = None,
    describes: bool = False,
) -> Any:
    """A key whose value is a number, or null where its type allows that."""
    low, high = at_least if above is None else above, below if at_most is None else at_most
    bounds = Bounds(low, above is None, high, at_most is not None, limit, off)
    return described(default, About(bounds, None, scope, tuple(unread), shared=shared, describes=describes))


def described(default: Any, said: About) -> Any:
    """A key of which this is said; of a class or function without arguments, the default is what it makes."""
    if callable(default):
        return field(default_factory=default, metadata={_ABOUT: said})
    return field(default=default, metadata={_ABOUT: said})
