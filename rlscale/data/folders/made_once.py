"""Folders that are made once and then shared by every run that needs the same: models, and what engines start from."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(final: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `final`: as it is there, or filled under another name first, so that it appears whole or not at all.

    Another run may make the same one meanwhile: the first that is done stays. OSError when the disk refuses.
    """
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}-{secrets.token_hex(6)}")
    temporary.mkdir()  # with the rights that the user's umask leaves, as tempfile's have not
    try:
        fill(temporary)
        os.replace(temporary, final)
    except OSError:
        if not final.is_dir():  # a full folder cannot be replaced, and need not be
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final
