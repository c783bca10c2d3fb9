from __future__ import annotations

import io
import sys

import pytest

from rlscale.run.processes.printing import print_anything


@pytest.mark.parametrize(("encoding", "written"), [("ascii", b"\\xfc \\udcff\n"), ("utf-8", b"\xc3\xbc \\udcff\n")])
def test_a_text_that_the_terminal_cannot_show_is_printed_with_escapes(
    monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes
) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding))
    print_anything()
    print("\u00fc \udcff", flush=True)
    assert screen.getvalue() == written
