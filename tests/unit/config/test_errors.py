"""What is told of an error in one line."""

from __future__ import annotations

import pytest

from rlscale.config.errors import first_line, last_line


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (ValueError("one\ntwo\n"), "one", "two"),
        (ValueError("\n  one"), "one", "one"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (OSError("  \n"), "OSError", "OSError"),
    ],
)
def test_a_line_of_an_error_is_one_of_what_it_says_or_else_its_kind(error: Exception, first: str, last: str) -> None:
    assert (first_line(error), last_line(error)) == (first, last)
