"""Reading YAML that somebody wrote: whatever is wrong with the file is one line, and no file takes long or much memory.

OmegaConf reads the values; what it would fall over (nesting, aliases that multiply) is looked for first, in the events
of the parser.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from rlscale.config.composition import quick_yaml  # noqa: F401  it changes what OmegaConf reads with
from rlscale.config.errors import UserError, first_line

MOST_BYTES = 1 << 18
"""Largest file that is read; the longest shipped recipe has a hundredth of it."""
MOST_NODES = 20_000
"""Values that a file may hold once its aliases are written out."""
MOST_LEVELS = 50
"""Mappings and lists inside one another."""


def read_yaml(file: Path) -> Any:
    """What the file says, as plain values, with interpolations as they were written; None for an empty file.

    Raises UserError that names the file, and the line where one is known.
    """
    return copy.deepcopy(_parsed(file, _text(file)))


@functools.lru_cache(maxsize=128)
def _parsed(file: Path, text: str) -> Any:
    """What `text`, of a file, says. A sweep, and the stages of a run, come back to the same recipes and options."""
    try:
        _bounded(file, text)
        content = OmegaConf.create(text) if text.strip() else None
    except UserError:
        raise
    except Exception as error:  # OmegaConf lets through whatever PyYAML and its own grammar raise
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{file}{place}: not valid YAML ({reason})") from error
    return OmegaConf.to_container(content, resolve=False) if OmegaConf.is_config(content) else content


def _text(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise UserError(
                f"{file}: is {size:,} bytes long, and at most {MOST_BYTES:,} are read; is it the right file?"
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _bounded(file: Path, text: str) -> None:
    """UserError for more nesting or more values than anybody writes, counted with every alias written out."""
    sizes: dict[str, int] = {}  # nodes under each anchor
    opened: list[tuple[str | None, int]] = []  # anchor and count at the start of what is not closed yet
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in opened]:
                raise UserError(f"{file}, line {line}: *{event.anchor} stands inside what it names; write it out")
            nodes += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if not opened and event.value:
                raise UserError(f"{file}, line {line}: a single value, where keys with values (key: value) belong")
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            nodes += 1
            if len(opened) > MOST_LEVELS:
                raise UserError(f"{file}, line {line}: more than {MOST_LEVELS} levels of nesting; is a bracket open?")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if nodes > MOST_NODES:
            raise UserError(
                f"{file}, line {line}: more than {MOST_NODES:,} values, its aliases (*) written out; use fewer"
            )
