"""The tensors of a version, from those of its base and a delta: every one is verified before anybody sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rlscale.platform.weight_checksums import checksum
from rlscale.weights.delta.delta_encoding import Bytes, DeltaEncoding, decode
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.delta.published import DeltaIndex, read_index, read_payload


class Patch:
    """A delta that fits what is held."""

    def __init__(self, delta: Path, held: int) -> None:
        """`held`: the version of the tensors that will be patched.

        DeltaError for a delta that was applied already, is made on another version, is truncated or damaged.
        """
        self._delta = delta
        self.index: DeltaIndex = read_index(delta)
        if self.index.version <= held:
            raise DeltaError(f"{delta} is repeated: version {held} is held already")
        if self.index.base_version != held:
            raise DeltaError(f"{delta} is out of order: its base is version {self.index.base_version}, held is {held}")
        self._payload = read_payload(delta, self.index)

    def changed(self, old: Mapping[str, Bytes]) -> Iterator[tuple[str, Bytes]]:
        """The new bytes of each tensor that changes. DeltaError for one whose checksum is not that of the new state."""
        encoding = DeltaEncoding(self.index.encoding)
        for name, about in self.index.tensors.items():
            if name not in old:
                raise DeltaError(f"{self._delta} has {name}, which is not among the tensors that are held")
            new = old[name]
            if about.end > about.start:
                try:
                    new = decode(encoding, self._payload[about.start : about.end], old[name], about.element)
                except DeltaError as error:
                    raise DeltaError(f"{self._delta}, {name}: {error}") from error
            if checksum(new.data) != about.checksum:
                raise DeltaError(f"{self._delta} was made on other weights: {name} does not become what was published")
            if about.end > about.start:
                yield name, new
