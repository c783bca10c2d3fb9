"""Standard output that takes every text: on a terminal of another encoding, or with lone surrogates in a path."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """From now on `print` writes what the output's encoding cannot hold as Python's escapes, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
