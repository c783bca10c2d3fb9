"""What is printed for people: text of files and of models may hold what terminals obey, and is shown, not obeyed."""

from __future__ import annotations

import re
import sys
from typing import IO

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what terminals obey, pages cannot hold or nobody sees written as Python's escapes.

    Control characters (tabs and line feeds stay), other line separators, marks that turn the direction of writing
    around and lone surrogates: `\\x1b`, `\\u2028`, `\\ud800`. For reading only: a backslash in the text stays one.
    """
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: object, file: IO[str] | None = None) -> None:
    """Print a line, visible, at once; to standard output, or to `file`. Commands print nothing otherwise (a test)."""
    print(visible(str(text)), file=file, flush=True)


def say_error(text: object) -> None:
    """The same to standard error."""
    say(text, sys.stderr)
