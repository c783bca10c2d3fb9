"""Looking at models of the Hugging Face hub as far as this machine has them, without a question to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cached_only() -> Iterator[None]:
    """In the block a name of the hub is what was downloaded of it, whether or not that is the newest version."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
