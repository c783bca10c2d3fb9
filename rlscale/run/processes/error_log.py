"""`logs/error.log`: every unexpected error of a run, of whichever process, with its whole traceback."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
from datetime import datetime
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.own_files import open_to_append

NAME = "error.log"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MOST = 20
"""Entries that one process may log of what does not end the run, such as rewards that fail."""


class ErrorLog:
    """The file, in the folder of a run's logs. Several processes may write to it."""

    def __init__(self, logs: str | Path) -> None:
        self.path = Path(logs).resolve() / NAME

    def write(self, what: str, text: str) -> bool:
        """Append an entry; whether it could be written. A disk that refuses does not make another error of it."""
        entry = f"==== {datetime.now():%Y-%m-%d %H:%M:%S}  {what}\n{_COLOURS.sub('', text).rstrip()}\n\n"
        with contextlib.suppress(OSError, UserError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open_to_append(self.path)
            try:
                os.write(file, entry.encode(errors="backslashreplace"))  # one write: entries do not mix
            finally:
                os.close(file)
            return True
        return False

    def exception(self, what: str, error: BaseException) -> bool:
        """Append an error of this process with its traceback and what it came from; whether it could be written."""
        return self.write(what, "".join(traceback.format_exception(error)))


class ErrorLogHandler(logging.Handler):
    """Writes what this process logs as an error, each message once, and no more than the first few."""

    def __init__(self, logs: str | Path, process: str) -> None:
        super().__init__(logging.ERROR)
        self._log, self._process = ErrorLog(logs), process
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record with its traceback."""
        message = record.getMessage()
        if message in self._seen or len(self._seen) >= _MOST:
            return
        self._seen.add(message)
        error = record.exc_info[1] if record.exc_info else None
        first, _, rest = message.partition("\n")
        text = "".join(traceback.format_exception(error)) if error is not None else rest
        self._log.write(f"{self._process}: {first}", text)


def log_errors(logs: str | Path, process: str) -> None:
    """Have everything that rlscale logs as an error in this process written to the run's file, too."""
    logging.getLogger("rlscale").addHandler(ErrorLogHandler(logs, process))
