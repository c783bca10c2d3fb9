"""The new lines of a file that somebody else appends to, and an even sample of a long one's."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

CHUNK = 4 << 20


class Tail:
    """Reads a file of lines bit by bit. A half line at its end waits until it is whole.

    A file that was replaced, or has become shorter, is read from its beginning; `generation` counts that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self._offset, self._size, self._file_id = 0, 0, (0, 0)

    def read(self, most: int = CHUNK) -> list[bytes]:
        """Whole lines that follow those read before, of about so many bytes; none where there are no more."""
        try:
            with _opened(self.path) as file:
                status = os.fstat(file.fileno())
                self._heed(status)
                file.seek(self._offset)
                data = file.read(most)
                while data and b"\n" not in data and (more := file.read(most)):
                    data += more
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole[:-1].split(b"\n") if whole else []

    @property
    def share(self) -> float:
        """How much of the file has been read, of 1; what was half a line counts as unread."""
        size = self._size
        if not size:  # nothing was read yet, or there is nothing
            with suppress(OSError):
                size = self.path.stat().st_size
        return self._offset / size if size else 1.0

    def _heed(self, status: os.stat_result) -> None:
        file_id = (status.st_dev, status.st_ino)
        if file_id != self._file_id or status.st_size < self._offset:
            self.generation += self._offset > 0
            self._offset, self._file_id = 0, file_id
        self._size = status.st_size


def sampled_lines(path: Path, count: int) -> list[bytes]:
    """About so many whole lines at even distances in bytes, the first and the last among them; in order."""
    try:
        with _opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            lines, last = [], -1
            for number in range(count):
                file.seek(size * number // count)
                if number:
                    file.readline()  # the rest of a line
                at = file.tell()
                line = file.readline()
                if at != last and line.endswith(b"\n"):
                    lines.append(line.rstrip(b"\n"))
                last = at
            return [*lines, *end_lines(path, 1)] if lines else []
    except OSError:
        return []


def end_lines(path: Path, count: int, most: int = 1 << 16) -> list[bytes]:
    """The last whole lines of a file, as many as there are in its last bytes."""
    try:
        with _opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            data = file.read()
    except OSError:
        return []
    lines = data.split(b"\n")
    whole = lines[:-1] if size <= most else lines[1:-1]
    return whole[-count:]


def _opened(path: Path) -> BinaryIO:
    """OSError for what is no file: opening a pipe that nobody writes to would never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EPERM, "not a regular file", str(path))
    return open(path, "rb")
