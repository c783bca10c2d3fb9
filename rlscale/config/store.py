"""The schema, made known to Hydra: the root, and the sections whose type depends on the chosen option."""

from __future__ import annotations

from collections.abc import Iterator

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


def register_schema() -> None:
    """Put the schema into Hydra's store, once per process."""
    store = ConfigStore.instance()
    if f"{ROOT}.yaml" in store.repo:
        return
    store.store(name=ROOT, node=Config)
    for name, kind in schemas().items():
        store.store(group=kind.group, name=name, node=kind)
