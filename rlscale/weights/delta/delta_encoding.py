"""The bytes of a tensor as the difference from its old bytes, compressed (zstd, level 1).

`xor`: new xor old; zero where nothing changed. `overwrite`: the number of changed elements, their positions (both u4)
and new values; it may be applied twice.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import zstandard
from numpy.typing import NDArray

from rlscale.weights.delta.delta_error import DeltaError

_LEVEL = 1
_COUNT = np.dtype("<u4")

Bytes = NDArray[np.uint8]


class DeltaEncoding(Enum):
    """How a difference is written down."""

    xor = "xor"
    overwrite = "overwrite"


def encode(encoding: DeltaEncoding, new: Bytes, old: Bytes, element: int) -> bytes:
    """The difference of two tensors' bytes, of equal length. `element`: bytes of one number, of which `overwrite` takes
    whole ones. DeltaError for more numbers than a position can name.
    """
    if encoding is DeltaEncoding.xor:
        return zstandard.ZstdCompressor(level=_LEVEL).compress((new ^ old).data)
    if new.size // element > np.iinfo(_COUNT).max:
        raise DeltaError(f"a tensor of {new.size} bytes is too large for weights.transport.encoding=overwrite; use xor")
    changed = (new != old).reshape(-1, element).any(axis=1).nonzero()[0].astype(_COUNT)
    values = new.reshape(-1, element)[changed]
    parts = (np.array([changed.size], _COUNT).tobytes(), changed.tobytes(), values.tobytes())
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def decode(encoding: DeltaEncoding, payload: bytes | memoryview, old: Bytes, element: int) -> Bytes:
    """The new bytes of a tensor. DeltaError for a payload that is no difference from bytes of this length."""
    most = (
        old.size
        if encoding is DeltaEncoding.xor
        else _COUNT.itemsize + old.size // element * (_COUNT.itemsize + element)
    )
    try:
        plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=max(most, 1))
    except zstandard.ZstdError as error:
        raise DeltaError(f"it cannot be decompressed ({error})") from error
    if encoding is DeltaEncoding.xor:
        if len(plain) != old.size:
            raise DeltaError(f"it tells of {len(plain)} bytes, the tensor has {old.size}")
        return old ^ np.frombuffer(plain, np.uint8)
    return _overwritten(plain, old, element)


def _overwritten(plain: bytes, old: Bytes, element: int) -> Bytes:
    width = _COUNT.itemsize
    count = int(np.frombuffer(plain[:width], _COUNT)[0]) if len(plain) >= width else 0
    if len(plain) != width + count * (width + element):
        raise DeltaError(f"it tells of {count} changed numbers and has {len(plain)} bytes")
    positions = np.frombuffer(plain, _COUNT, count, width)
    new = old.copy().reshape(-1, element)
    if count and positions.max() >= len(new):
        raise DeltaError(f"it changes number {positions.max()} of {len(new)}")
    new[positions] = np.frombuffer(plain, np.uint8, offset=width * (1 + count)).reshape(-1, element)
    return new.reshape(-1)
