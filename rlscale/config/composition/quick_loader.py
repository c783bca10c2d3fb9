"""Hydra's loader of configurations, which remembers what it has read.

Hydra's own reads and parses every file again for each composition, copies the whole schema, and walks the whole
configuration after each option that it merges. What comes out is the same here, in about a quarter of the time. It
builds on what Hydra keeps to itself (its version is pinned): test_quick_loader.py holds it against Hydra's own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import defaults_list as defaults_lists
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlscale.config.composition import quick_kinds, quick_yaml  # noqa: F401  they change what OmegaConf asks and reads with
from rlscale.config.composition.node_copy import copy_of
from rlscale.config.composition.overrides import parser
from rlscale.config.composition.section_merging import Part, merged, merged_at_once

_every_interpolation_map = defaults_lists._create_interpolation_map


@dataclass
class _Remembered(ConfigResult):
    """A file or a schema that was read, which nothing changes any more."""

    name: tuple[Any, ...] = ()
    """Where it comes from and when it was written."""
    placed: dict[str | None, Any] = field(default_factory=dict)
    """Inside the section that it fills, by that section: to be copied."""


class QuickLoader(ConfigLoaderImpl):
    """Composes as Hydra's loader does. `made` is the configuration that differs from one composition to the next."""

    def __init__(self, config_search_path: ConfigSearchPath, made: str) -> None:
        super().__init__(config_search_path)
        self.repository = _Repository(config_search_path, made)

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        parts = [self._part(default, repo) for default in defaults]
        try:
            known = [part for part in parts if part is not None]
            node = merged(known) if len(known) == len(parts) else None
            if node is None:
                node = merged_at_once([self._placed(default, repo) for default in defaults])
        except OmegaConfBaseException:  # one by one, for a message that names the option
            return super()._compose_config_from_defaults_list(defaults, repo)
        return node

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        read = repo.load_config(config_path=default.config_path or "")
        if not isinstance(read, _Remembered):
            return super()._load_single_config(default, repo)
        if default.package not in read.placed:
            read.placed[default.package] = super()._load_single_config(default, repo).config
        config = copy_of(read.placed[default.package])
        return ConfigResult(read.provider, read.path, config, read.header, read.defaults_list, read.is_schema_source)

    def _part(self, default: ResultDefault, repo: IConfigRepository) -> Part | None:
        """What is to be merged of a default; None for what is not remembered."""
        read = repo.load_config(config_path=default.config_path or "")
        if not isinstance(read, _Remembered):
            return None
        package = read.header["package"] if default.package is None else default.package
        return Part(read.name, package or "", lambda: self._placed(default, repo))

    def _placed(self, default: ResultDefault, repo: IConfigRepository) -> DictConfig:
        node = self._load_single_config(default, repo).config
        assert isinstance(node, DictConfig)
        return node


class JobLoader(QuickLoader):
    """Composes without Hydra's own configuration, from a defaults list that no file holds."""

    def __init__(self, conf: Path, searchpath: Sequence[str], defaults: Sequence[Any], made: str) -> None:
        """`conf`: the folder of the groups; `searchpath`: further ones. `made` is what messages call the list."""
        version.setbase("1.3")
        path = create_config_search_path(str(conf))
        schema = path.get_path().pop()
        for folder in searchpath:
            path.append("hydra.searchpath in main", f"file://{folder}")
        path.get_path().append(schema)
        super().__init__(path, made)
        self._made = made
        self.repository = _JobRepository(path, made, defaults)

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
        """What the defaults list chooses with these overrides, and the option of each group. Raises what Hydra does."""
        parsed = parser().parse_overrides(list(overrides))
        repo = self.repository
        chosen = defaults_lists.create_defaults_list(repo, self._made, parsed, prepend_hydra=False, skip_missing=False)
        options = [default for default in chosen.defaults if default.config_path != self._made]
        node = self._compose_config_from_defaults_list(options, repo)
        OmegaConf.set_struct(node, True)
        self._apply_overrides_to_config(chosen.config_overrides, node)
        return node, chosen.overrides.known_choices


class _Repository(ConfigRepository):
    """Reads a file again when it has changed, and everything else once."""

    def __init__(self, config_search_path: ConfigSearchPath, made: str) -> None:
        self.made = made
        super().__init__(config_search_path)

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or config_path == self.made:
            return super().load_config(config_path=config_path)
        stamp = (source.provider, source.path, config_path, _written(source, config_path))
        if stamp not in _READ:
            read = super().load_config(config_path=config_path)
            assert read is not None
            _READ[stamp] = _Remembered(**vars(read), name=stamp)
        return _READ[stamp]

    def _find_object_source(self, config_path: str, object_type: ObjectType | None) -> ConfigSource | None:
        for source in self.sources:
            has = _packaged if source.scheme() == "pkg" else _is
            if has(source, config_path, object_type):
                return source
        return None


class _JobRepository(_Repository):
    """One that has a defaults list, too, and looks at each file once: for a single composition."""

    def __init__(self, config_search_path: ConfigSearchPath, made: str, defaults: Sequence[Any]) -> None:
        super().__init__(config_search_path, made)
        result = ConfigResult("main", "structured://", DictConfig({}), {"package": None})
        result.defaults_list = [self._entry(entry) for entry in defaults]
        self._loaded: dict[str, ConfigResult | None] = {made: result}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._loaded:
            self._loaded[config_path] = super().load_config(config_path)
        return self._loaded[config_path]

    def config_exists(self, config_path: str) -> bool:
        return config_path == self.made or super().config_exists(config_path)

    def _entry(self, entry: Any) -> InputDefault:
        """An entry of a defaults list, as the base class makes it of OmegaConf's nodes."""
        if isinstance(entry, str):
            path, package, _ = self._split_group(entry)
            return ConfigDefault(path=path, package=package)
        ((words, option),) = entry.items()
        group, package, _ = self._split_group(words)
        found = self.Keywords()
        self._extract_keywords_from_config_group(group, found)
        return GroupDefault(
            group=found.group, value=option, package=package, optional=found.optional, override=found.override
        )


_READ: dict[tuple[Any, ...], _Remembered] = {}
"""By where it comes from and when it was written."""


def _written(source: ConfigSource, config_path: str) -> tuple[int, int] | None:
    """When a file was changed last, and its number on the disk; None for what is not a file (a schema)."""
    if source.scheme() != "file":
        return None
    file = os.stat(os.path.join(source.path, f"{config_path.removesuffix('.yaml')}.yaml"))
    return file.st_ctime_ns, file.st_ino


def _is(source: ConfigSource, config_path: str, object_type: ObjectType | None) -> bool:
    return source.is_config(config_path) if object_type == ObjectType.CONFIG else source.is_group(config_path)


_IN_PACKAGES: dict[tuple[str, str, ObjectType | None], bool] = {}
"""Whether a package, which nothing changes while a program runs, holds an option or a group."""


def _packaged(source: ConfigSource, config_path: str, object_type: ObjectType | None) -> bool:
    key = (source.path, config_path, object_type)
    if key not in _IN_PACKAGES:
        _IN_PACKAGES[key] = _is(source, config_path, object_type)
    return _IN_PACKAGES[key]


def _interpolation_map(overrides: Overrides, defaults_list: list[InputDefault], self_added: bool) -> DictConfig:
    """What interpolations in a defaults list may name, made only for a list that has one.

    Hydra makes it for the list of every option: a sixth of the time of a composition.
    """
    if any(entry.is_interpolation() for entry in defaults_list if not entry.is_self()):
        return _every_interpolation_map(overrides, defaults_list, self_added)
    return _EMPTY


_EMPTY = DictConfig({})
defaults_lists._create_interpolation_map = _interpolation_map
version._get_version = functools.cache(version._get_version)  # asked a hundred times for each composition
