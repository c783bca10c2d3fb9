"""Whole files: a reader, or a run that continues after a kill, finds the old text or the new one, never half of it."""

from __future__ import annotations

import os
from pathlib import Path

from rlscale.config import own_files


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` (UTF-8) in one step. The folder must exist."""
    own_files.write_text(path, text, sync=True, by=f".{os.getpid()}")
