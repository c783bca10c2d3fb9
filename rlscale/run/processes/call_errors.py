"""What the error of a remote call says: of what was asked, or of the machine on which it was to be done."""

from __future__ import annotations

import errno
from collections.abc import Sequence

_OF_THE_MACHINE = ("DistBackendError", "DistNetworkError", "DistStoreError", "AcceleratorError")
"""torch's names of errors that say nothing against what was asked: connections, stores, devices."""
_SAID_OF_THE_MACHINE = ("gloo", "NCCL")
"""What is in the text of a RuntimeError where connections between ranks broke."""
_SAID_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED")
"""The same where there was no memory."""


def cause_of(error: Exception) -> BaseException:
    """What the remote call raised, where it raised something."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory or a connection was what failed, which says nothing against what was asked."""
    return is_of_memory(error) or type(error).__name__ in _OF_THE_MACHINE or _says(error, _SAID_OF_THE_MACHINE)


def is_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of the host or of a device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    out_of_it = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out_of_it or _says(error, _SAID_OF_MEMORY)


def _says(error: BaseException, words: Sequence[str]) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def last_line(error: BaseException) -> str:
    """The last line of what it says, as that of a traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
