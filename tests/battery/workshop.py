"""Writing and damaging the files of a case."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.battery import planted


def write(folder: Path, name: str, content: Any) -> None:
    """One file of a case. `content` is text, or a mapping with one key that says how the bytes are made."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode("utf-8"))
        return
    ((how, what),) = content.items()
    if how == "hex":
        path.write_bytes(bytes.fromhex(what))
    elif how == "latin1":
        path.write_bytes(what.encode("latin-1"))
    elif how == "utf16":
        path.write_bytes(what.encode("utf-16"))
    elif how == "json":
        path.write_text(json.dumps(what))
    elif how == "rows":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in what), encoding="utf-8")
    elif how == "repeat":
        text, times = what[:2]
        path.write_bytes((text * times + (what[2] * times if len(what) > 2 else "")).encode())
    elif how == "parquet":
        _write_parquet(path, what)
    elif how == "bomb":
        path.write_text(_explosion(what))
    else:
        raise ValueError(f"{how}: no such way to write a file")


def _write_parquet(path: Path, what: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = what if isinstance(what, dict) else {key: [row.get(key) for row in what] for key in what[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _explosion(tail: str) -> str:
    """YAML whose aliases stand for 9^9 values (the billion laughs)."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join([*lines, tail, ""])


def edit(folder: Path, step: dict[str, Any]) -> None:
    """One change of a case's folder; `step` has one key, the name of the change."""
    ((kind, what),) = step.items()
    _EDITS[kind](folder, what)


def _set(folder: Path, what: dict[str, dict[str, Any]]) -> None:
    """Values of a JSON file, by dotted key."""
    for name, values in what.items():
        content = json.loads((folder / name).read_text())
        for key, value in values.items():
            *path, last = key.split(".")
            inner = content
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        (folder / name).write_text(json.dumps(content, indent=2))


def _drop(folder: Path, what: dict[str, list[str]]) -> None:
    for name, keys in what.items():
        content = json.loads((folder / name).read_text())
        for key in keys:
            *path, last = key.split(".")
            inner = content
            for part in path:
                inner = inner[part]
            del inner[last]
        (folder / name).write_text(json.dumps(content, indent=2))


def _remove(folder: Path, what: str) -> None:
    found = list(folder.glob(what))
    assert found, f"{what} is not there to be removed"
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _truncate(folder: Path, what: dict[str, int]) -> None:
    for name, size in what.items():
        path = _only(folder, name)
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def _flip(folder: Path, what: dict[str, int]) -> None:
    """Every bit of one byte, counted from the end where negative."""
    for name, offset in what.items():
        path = _only(folder, name)
        content = bytearray(path.read_bytes())
        content[offset] ^= 0xFF
        path.write_bytes(content)


def _write(folder: Path, what: dict[str, Any]) -> None:
    for name, content in what.items():
        write(folder, name, content)


def _append(folder: Path, what: dict[str, str]) -> None:
    for name, text in what.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)


def _link(folder: Path, what: dict[str, str]) -> None:
    for name, target in what.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)


def _folder(folder: Path, what: str) -> None:
    (folder / what).mkdir(parents=True)


def _fifo(folder: Path, what: str) -> None:
    os.mkfifo(folder / what)


def _move(folder: Path, what: dict[str, str]) -> None:
    for name, target in what.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        _only(folder, name).rename(folder / target)


def _copy(folder: Path, what: dict[str, str]) -> None:
    for name, target in what.items():
        source = _only(folder, name)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, folder / target) if source.is_dir() else shutil.copy(source, folder / target)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert found, f"{pattern} is not there"
    return found[0]


def _tensors(folder: Path, what: dict[str, Any]) -> None:
    """Tensors of a safetensors file by name: null leaves one out; `dtype`, `shape`, `as` (a name), `fill` change it."""
    what = dict(what)
    path = folder / what.pop("file", "model/model.safetensors")
    target = folder / what.pop("to", path.relative_to(folder))
    header, data = _read_tensors(path)
    for name, change in what.items():
        if change is None:
            del header[name]
            continue
        entry = dict(header.pop(change.get("of", name), None) or {"dtype": "F32", "shape": [1]})
        content = data.get(change.get("of", name), b"\0" * 4)
        if "of" in change:  # a copy: the first stays
            header[change["of"]] = dict(entry)
        if "dtype" in change or "shape" in change:
            entry |= {key: change[key] for key in ("dtype", "shape") if key in change}
            content = _resized(content, entry)
        if "fill" in change:
            content = struct.pack("<f", float(change["fill"])) * (len(content) // 4)
        header[change.get("as", name)] = entry
        data[change.get("as", name)] = content
    _write_tensors(target, header, data)


_BYTES = {"F32": 4, "F64": 8, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8, "BOOL": 1}


def _resized(content: bytes, entry: dict[str, Any]) -> bytes:
    size = _BYTES[entry["dtype"]]
    for extent in entry["shape"]:
        size *= extent
    return (content * (size // max(len(content), 1) + 1))[:size]


def _read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = {}
    for name, entry in header.items():
        start, stop = entry.pop("data_offsets")
        data[name] = content[8 + length + start : 8 + length + stop]
    return header, data


def _write_tensors(path: Path, header: dict[str, Any], data: dict[str, bytes]) -> None:
    """In the format's own terms, because the library refuses to write some of what is found in the wild."""
    position, parts, entries = 0, [], {}
    for name, entry in header.items():
        entries[name] = {**entry, "data_offsets": [position, position + len(data[name])]}
        position += len(data[name])
        parts.append(data[name])
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _scramble(folder: Path, seed: int) -> None:
    """Bytes of one file, whichever the seed picks: changed, gone, there twice, or cut off."""
    draw = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return
    path = draw.choice(files)
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 2, 8))):
        at = draw.randrange(len(content) + 1)
        to = min(at + draw.choice((1, 4, 64)), len(content))
        match draw.randrange(4):
            case 0:
                content[at:to] = bytes(draw.randrange(256) for _ in range(to - at))
            case 1:
                del content[at:to]
            case 2:
                content[at:at] = content[at:to]
            case 3 if draw.random() < 0.2:
                del content[at:]
    path.write_bytes(content)


_EDITS: dict[str, Callable[[Path, Any], None]] = {
    "set": _set,
    "drop": _drop,
    "remove": _remove,
    "truncate": _truncate,
    "flip": _flip,
    "write": _write,
    "append": _append,
    "link": _link,
    "folder": _folder,
    "fifo": _fifo,
    "move": _move,
    "copy": _copy,
    "tensors": _tensors,
    "scramble": _scramble,
    "plant": planted.plant,
}
