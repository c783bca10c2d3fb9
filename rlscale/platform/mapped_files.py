"""Files in shared memory that stay mapped from one reading to the next: mapping one anew costs as much as its checksum.

For files that another process writes again and again, and says when they may be read.
"""

from __future__ import annotations

import mmap
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Mapped:
    content: Tensor
    inode: int


class MappedFiles:
    """By their paths. Those that are gone, or others by now, are let go at the next `read`."""

    def __init__(self) -> None:
        self._known: dict[str, _Mapped] = {}

    def read(self, path: str) -> Tensor:
        """The bytes of a file as they are now, uint8 [size]; only to be read. OSError where there is no such file."""
        import torch  # which whoever starts an engine has no need of

        self._known = {path: known for path, known in self._known.items() if _inode(path) == known.inode}
        if path not in self._known:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nobody writes
                    self._known[path] = _Mapped(
                        torch.frombuffer(mapped, dtype=torch.uint8), os.fstat(file.fileno()).st_ino
                    )
        return self._known[path].content


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
