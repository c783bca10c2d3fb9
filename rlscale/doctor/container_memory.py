"""How much memory the container, or job, of this process may use: the host often has more."""

from __future__ import annotations

from pathlib import Path

_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of control groups of both versions: folder of the controller, bound, what is in use, and of that what is cached."""


def container_memory(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[tuple[float, float]]:
    """Bytes allowed and bytes free, of each bound on this process's memory; none without one."""
    found = []
    for controller, bound, used, cached in _FILES:
        root = groups / controller
        place = root / _place(own, controller)
        for folder in dict.fromkeys([place, *place.parents, root]):
            most, now = _number(folder / bound), _number(folder / used)
            if folder.is_relative_to(root) and most is not None and now is not None:
                found.append((most, max(most - now + _cached(folder / "memory.stat", cached), 0.0)))
    return found


def _place(own: Path, controller: str) -> str:
    """The group of this process below that controller's folder."""
    for line in _text(own).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == controller:
            return place.lstrip("/")
    return ""


def _number(file: Path) -> float | None:
    text = _text(file).strip()
    return float(text) if text.isdigit() else None


def _cached(file: Path, name: str) -> float:
    lines = (line.split() for line in _text(file).splitlines())
    return next((float(words[1]) for words in lines if words[0] == name), 0.0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
