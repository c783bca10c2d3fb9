"""The file that holds the API key of engines (`rollout.engine_key_file`, `key_file` of `engines serve`)."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.errors import UserError


def read_key(path: str, named: str) -> str:
    """The key in a file, of which messages say that it is `named`. UserError where it cannot be read, or is empty."""
    try:
        key = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{named}={path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not key:
        raise UserError(f"{named}={path} holds no key, so anybody could ask and change the engine")
    return key
