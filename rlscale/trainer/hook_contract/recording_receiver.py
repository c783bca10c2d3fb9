"""An engine's side of a transfer that only writes down what reaches it."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class RecordingReceiver:
    """Takes tensors as an engine would, and keeps a copy of each. See rlscale.weights.transports.transport.Receiver."""

    url: str
    fails: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """What arrived, by name."""
    twice: list[str] = field(default_factory=list)
    """Names that arrived more than once."""
    versions: list[tuple[int, bool]] = field(default_factory=list)
    """Version, and whether it was said to be the last one, of each call."""

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        """Read the bucket of the first rank."""
        if self.fails:
            raise RuntimeError("out of memory")
        loaded = pickle.loads(base64.b64decode(serialized[0], validate=True))
        for entry in loaded["metadata"]:
            part = loaded["flattened_tensor"][entry.start_idx : entry.end_idx]
            self.twice += [entry.name] if entry.name in self.tensors else []
            self.tensors[entry.name] = part.view(entry.dtype).view(entry.shape).clone()
        self.versions.append((version, last))

    def open_group(self, address: str, port: int, rank_offset: int, world_size: int, group: str, backend: str) -> None:
        """Refused: a process group has two ends, and this is not a process of its own."""
        raise NotImplementedError("broadcasting is not tried here; see tests/dist/test_broadcast.py")

    def receive_broadcast(
        self,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        group: str,
        version: int,
        last: bool,
    ) -> None:
        """Refused; see `open_group`."""
        raise NotImplementedError("broadcasting is not tried here; see tests/dist/test_broadcast.py")

    def close_group(self, group: str) -> None:
        """There is none."""
