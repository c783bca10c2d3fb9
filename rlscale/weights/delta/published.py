"""A delta as a folder: `index.json`, and the payload of the tensors that changed, one behind the other.

The index names version and base, how the payload is encoded, a checksum of the payload, and for every tensor of the
version the checksum of its *new* bytes: of those that did not change, too, so that a copy of another model is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rlscale.platform.weight_checksums import checksum
from rlscale.weights.delta.delta_encoding import DeltaEncoding
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.folder_aside import FolderAside

INDEX, PAYLOAD = "index.json", "payload.zst"
START = -1
"""The version of the folder that the engines started from."""


@dataclass(frozen=True)
class DeltaTensor:
    """One tensor of a version."""

    checksum: str
    """Of its new bytes."""
    element: int
    """Bytes of one number."""
    start: int = 0
    """Where its part of the payload begins; there is none where it did not change."""
    end: int = 0


@dataclass(frozen=True)
class DeltaIndex:
    """What the index says."""

    version: int
    base_version: int
    encoding: str
    payload_bytes: int
    payload_checksum: str
    tensors: Mapping[str, DeltaTensor]
    compression: str = "zstd"
    checksum: str = "xxh3_128"


def folder_of(folder: Path, version: int, *, from_start: bool = False) -> Path:
    """Where a version's delta lies among the others; that from the version before, or the one from the start."""
    return folder / f"{'from_start' if from_start else 'delta'}_{version:06d}"


def versions_in(folder: Path, *, from_start: bool = False) -> list[int]:
    """The versions of the deltas of one kind, the oldest first."""
    kind = folder_of(folder, 0, from_start=from_start).name.removesuffix("000000")
    return sorted(int(path.name.removeprefix(kind)) for path in folder.glob(f"{kind}*"))


def write_delta(folder: Path, index: DeltaIndex, payload: bytes, *, from_start: bool = False) -> Path:
    """Publish a delta: it appears whole or not at all. OSError when the disk refuses, or where the version is there."""
    aside = FolderAside(folder_of(folder, index.version, from_start=from_start))
    try:
        (aside.path / PAYLOAD).write_bytes(payload)
        (aside.path / INDEX).write_text(json.dumps(asdict(index)) + "\n", encoding="utf-8")
        return aside.publish()
    finally:
        aside.discard()


def read_index(delta: Path) -> DeltaIndex:
    """The index of a delta. DeltaError for one that is missing or says what nobody understands."""
    try:
        content = json.loads((delta / INDEX).read_text(encoding="utf-8"))
        tensors = {name: DeltaTensor(**about) for name, about in content.pop("tensors").items()}
        index = DeltaIndex(**content, tensors=tensors)
        DeltaEncoding(index.encoding)
    except FileNotFoundError as error:
        raise DeltaError(f"{delta} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DeltaError(f"{delta}: its {INDEX} cannot be read ({error})") from error
    if (index.compression, index.checksum) != ("zstd", "xxh3_128"):
        raise DeltaError(f"{delta} is compressed by {index.compression} and summed by {index.checksum}: unknown here")
    return index


def read_payload(delta: Path, index: DeltaIndex) -> memoryview:
    """The payload, as it was published. DeltaError where it is truncated or damaged."""
    try:
        payload = (delta / PAYLOAD).read_bytes()
    except OSError as error:
        raise DeltaError(f"{delta} has no payload ({error.strerror})") from error
    if len(payload) != index.payload_bytes:
        raise DeltaError(f"{delta} is truncated: {len(payload)} of {index.payload_bytes} bytes")
    if checksum(payload) != index.payload_checksum:
        raise DeltaError(f"{delta} is corrupted: its payload is not the one that was published")
    return memoryview(payload)
