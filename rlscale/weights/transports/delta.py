"""To engines that reach a folder of ours, only what changed: rank 0 publishes deltas, and each engine patches a copy.

The snapshot that differences are taken from is the folder that engines started from, with all published deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from rlscale.families.weight_files import tensors_of
from rlscale.platform.weight_checksums import checksum
from rlscale.weights.bucket import Bucket
from rlscale.weights.delta.delta_encoding import Bytes, Encoding, encode
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.delta.local_copy import chain
from rlscale.weights.delta.patching import Patch
from rlscale.weights.delta.published import START, DeltaIndex, DeltaTensor, write_delta
from rlscale.weights.transports.receivers import TakesDeltas, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError, tell


class DeltaTransport:
    """Rank 0 to every engine that reaches its folder; it holds the last version in memory."""

    def __init__(
        self,
        route: Route,
        folder: str | None = None,
        folder_on_engines: str | None = None,
        encoding: str = "xor",
    ) -> None:
        """`folder`: where deltas are published; None is the run's own folder. `folder_on_engines`: the path under which
        engines see it, where it is another one. `encoding`: xor, or overwrite.
        """
        self._timeout, self._model, self._encoding = route.timeout_s, route.started_from, Encoding(encoding)
        self._folder, self._seen = route.exchange(folder, folder_on_engines)
        self._receivers: list[TakesDeltas] = []
        self._held, self._snapshot = START, dict[str, Bytes]()
        self._failure: DeltaError | None = None
        self._forget()

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport. TransferError where nobody knows what engines started from."""
        self.close()
        if dist.get_rank() != 0 or not receivers:
            return
        self._receivers = that_can(TakesDeltas, receivers, "delta")
        if self._model is None:
            raise TransferError("weights/transport=delta: nobody knows which folder the engines started from")
        if not self._snapshot:
            try:
                self._restore(Path(self._model))
            except DeltaError as error:
                raise TransferError(f"weights/transport=delta: {error}") from error

    def send(self, bucket: Bucket) -> None:
        """See Transport. What is wrong is said in `commit`: the other ranks go on until then."""
        if not self._receivers or self._failure is not None:
            return
        try:
            for name, tensor in bucket.named:
                self._add(name, tensor)
        except DeltaError as error:
            self._failure = error

    def commit(self, version: int) -> None:
        """See Transport. A version that was published already, and is the same, is not published again."""
        if not self._receivers:
            return
        try:
            if self._failure is not None:
                raise self._failure
            if version != self._held or self._changed:
                self._publish(version)
        except (DeltaError, OSError) as error:
            raise TransferError(f"version {version} cannot be published in {self._folder}: {error}") from error
        finally:
            self._forget()
        tell(self._receivers, lambda receiver: receiver.receive_deltas(str(self._seen), version), self._timeout)

    def close(self) -> None:
        """See Transport."""
        self._receivers = []
        self._forget()

    def _forget(self) -> None:
        """Of the version that is underway."""
        self._failure = None
        self._payload, self._tensors = bytearray(), dict[str, DeltaTensor]()
        self._changed: dict[str, Bytes] = {}

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        new = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        old = self._snapshot.get(name)
        if old is None or old.size != new.size:
            raise DeltaError(
                f"{name} is {'not there' if old is None else 'of another type or shape'} in {self._model}, which the "
                "engines started from; choose weights/transport=disk"
            )
        start = len(self._payload)
        if not np.array_equal(new, old):
            self._payload += encode(self._encoding, new, old, tensor.element_size())
            self._changed[name] = new.copy()
        self._tensors[name] = DeltaTensor(checksum(new.data), tensor.element_size(), start, len(self._payload))

    def _publish(self, version: int) -> None:
        if version <= self._held:
            raise DeltaError(f"version {self._held} was published already, and these are other weights")
        payload = bytes(self._payload)
        sizes = len(payload), checksum(payload)
        write_delta(self._folder, DeltaIndex(version, self._held, self._encoding.value, *sizes, self._tensors), payload)
        self._snapshot |= self._changed
        self._held = version

    def _restore(self, model: Path) -> None:
        """The snapshot: what engines started from, and what was published since, by a transport before this one."""
        for name, entry in tensors_of(model).items():
            self._snapshot[name] = np.fromfile(entry.file, np.uint8, entry.end - entry.start, offset=entry.start)
        versions = sorted(int(path.name.removeprefix("delta_")) for path in self._folder.glob("delta_*"))
        for delta in chain(self._folder, START, versions[-1]) if versions else []:
            patch = Patch(delta, self._held)
            self._snapshot |= dict(patch.changed(self._snapshot))
            self._held = patch.index.version
