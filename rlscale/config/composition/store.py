"""The schema, made known to Hydra: the root, and the sections whose type depends on the chosen option."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator

from hydra.core.config_store import ConfigStore

from rlscale.config.schema import Config
from rlscale.config.schema.section import Section

ROOT = "rlscale_schema"
"""Name of the root schema; the first entry of every recipe's defaults list."""


def kinds(section: type[Section]) -> Iterator[type[Section]]:
    """A type of section and those that build on it."""
    yield section
    for kind in section.__subclasses__():
        yield from kinds(kind)


def schemas() -> dict[str, type[Section]]:
    """The schemas that an option names in its defaults list."""
    return {kind.schema: kind for kind in kinds(Section) if kind.schema}


def _the_store(_: ConfigStore) -> tuple[Callable[[], ConfigStore], tuple[()]]:
    return ConfigStore.instance, ()


def register_schema() -> None:
    """Put the schema into Hydra's store, once per process."""
    store = ConfigStore.instance()
    if f"{ROOT}.yaml" in store.repo:
        return
    # Hydra copies its sources, and all that they hold, whenever it composes. What it loads from the store is copied
    # anyway, so a copy of the one store may be that store.
    copyreg.pickle(ConfigStore, _the_store)
    store.store(name=ROOT, node=Config)
    for name, kind in schemas().items():
        store.store(group=kind.group, name=name, node=kind)
