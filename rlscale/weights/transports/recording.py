"""To nobody: writes down what would be sent, for tests. Engines that are connected keep the weights that they have.

Stricter than engines are: whatever no transport should ever be given is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from rlscale.config.own_files import write_text
from rlscale.platform.tensor_sum import TensorSum
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError


class RecordingTransport:
    """Rank 0 keeps type, shape and checksum of every tensor of every version, and forgets the tensors."""

    def __init__(self, route: Route, folder: str | None = None) -> None:
        """`folder`: where each version is written besides, as `version_000003.json` with a text for each name."""
        self.route = route
        """The one that it was built with."""
        self.versions: dict[int, dict[str, TensorSum]] = {}
        """What was committed: by version, the tensors by name in the order in which they were sent."""
        self.urls: list[str] = []
        """Of the engines that were connected last."""
        self.closed = False
        self._folder = None if folder is None else Path(folder)
        self._coming: dict[str, TensorSum] = {}
        self._version: int | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport. Anything with a URL will do."""
        self.close()
        self.urls, self.closed = [receiver.url for receiver in receivers], False

    def send(self, bucket: Bucket) -> None:
        """See Transport. TransferError for a tensor that comes twice, and for two versions at once."""
        if dist.is_initialized() and dist.get_rank() != 0:
            return
        if self.closed:
            raise TransferError("a bucket was sent without engines: connect comes first")
        if self._version not in (None, bucket.version):
            raise TransferError(f"a bucket of version {bucket.version} came in the middle of version {self._version}")
        self._version = bucket.version
        for name, tensor in bucket.named:
            if name in self._coming:
                raise TransferError(f"{name} was sent twice in version {bucket.version}")
            self._coming[name] = TensorSum.of(tensor)

    def commit(self, version: int) -> None:
        """See Transport. TransferError where nothing was sent, or the buckets are of another version."""
        if dist.is_initialized() and dist.get_rank() != 0:
            return
        if self._version != version:
            sent = "nothing" if self._version is None else f"version {self._version}"
            raise TransferError(f"version {version} was committed, and {sent} was sent")
        self.versions[version] = self._coming
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            texts = {name: str(tensor) for name, tensor in self._coming.items()}
            write_text(self._folder / f"version_{version:06d}.json", json.dumps(texts, indent=1))
        self._coming, self._version = {}, None

    def close(self) -> None:
        """See Transport. What was not committed is forgotten."""
        self._coming, self._version = {}, None
        self.closed = True


def read_version(folder: str | Path, version: int) -> dict[str, TensorSum]:
    """What a RecordingTransport wrote of a version."""
    texts = json.loads((Path(folder) / f"version_{version:06d}.json").read_text())
    return {name: TensorSum.read(text) for name, text in texts.items()}
