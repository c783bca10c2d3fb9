"""The one page: its own script and style and the charting library in it, so that it loads nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files

from rlscale.observe.token_view import script

SCRIPTS = ("start.js", "charts.js", "lanes.js", "tables.js", "tokens.js", "main.js")
"""The page's own, in the order in which they run; each uses what stands before it."""
_LIBRARY = ("uPlot.iife.min.js", "uPlot.min.css")
"""uPlot 1.6.32, as published (npm), with its licence beside it."""


@functools.cache
def page() -> str:
    """The page's HTML."""
    library, library_style = (_text(f"vendor/{name}") for name in _LIBRARY)
    style = files("rlscale.observe").joinpath("report.css").read_text(encoding="utf-8")
    return (
        _text("page/page.html")
        .replace("/*style*/", library_style + style + _text("page/dashboard.css"))
        .replace("/*library*/", library)
        .replace("/*script*/", _own_script())
    )


@functools.cache
def policy() -> str:
    """What a browser lets the page do: run these two scripts, ask this server, and nothing else."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (_text(f"vendor/{_LIBRARY[0]}"), _own_script()))
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _own_script() -> str:
    first, *others = (_text(f"page/{name}") for name in SCRIPTS)
    return '"use strict";\n' + "".join([first, script(), *others])


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(name: str) -> str:
    return files("rlscale.dashboard").joinpath(name).read_text(encoding="utf-8")
