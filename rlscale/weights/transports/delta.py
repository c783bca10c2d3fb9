"""To engines that reach a folder of ours, only what changed: rank 0 publishes deltas, and each engine patches a copy.

The snapshot that differences are taken from is the folder that engines started from, with all published deltas. Now and
then a delta from that folder is published besides, and the deltas up to there are removed: an engine that starts later,
or has been away, begins with it, and neither its way nor the disk grows with the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from rlscale.families.family import FolderError
from rlscale.families.weight_files import TensorEntry, tensors_of
from rlscale.platform.weight_checksums import checksum
from rlscale.weights.bucket import Bucket
from rlscale.weights.delta.delta_encoding import Bytes, DeltaEncoding, encode
from rlscale.weights.delta.delta_error import DeltaError
from rlscale.weights.delta.local_copy import chain
from rlscale.weights.delta.patching import Patch
from rlscale.weights.delta.published import START, DeltaIndex, DeltaTensor, folder_of, versions_in, write_delta
from rlscale.weights.safetensors_file import NAMES
from rlscale.weights.transports.receivers import TakesDeltas, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError, tell

FROM_START_EVERY = 16
"""Versions between two deltas from the folder that engines started from."""

Snapshot = tuple[int, dict[str, Bytes]]
_SNAPSHOTS: dict[Path, Snapshot] = {}
"""By the folder of its deltas what was published last: transports come and go with every engine that is restarted."""


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
        self._timeout, self._model, self._encoding = route.timeout_s, route.started_from, DeltaEncoding(encoding)
        self._folder, self._seen = route.exchange(folder, folder_on_engines)
        self._receivers: list[TakesDeltas] = []
        self._held, self._snapshot = START, dict[str, Bytes]()
        self._start: dict[str, TensorEntry] = {}
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
        try:
            self._start = tensors_of(Path(self._model))
            self._held, self._snapshot = _SNAPSHOTS.get(self._folder) or self._restored()
        except (DeltaError, FolderError) as error:
            raise TransferError(f"weights/transport=delta: {error}") from error
        _SNAPSHOTS[self._folder] = self._held, self._snapshot

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
            _SNAPSHOTS.pop(self._folder, None)
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
        old, entry = self._snapshot.get(name), self._start.get(name)
        if old is None or entry is None or (entry.dtype, entry.shape) != (NAMES.get(tensor.dtype), tuple(tensor.shape)):
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
        self._write(version, self._held, bytes(self._payload), self._tensors)
        self._snapshot |= self._changed
        self._held = version
        _SNAPSHOTS[self._folder] = version, self._snapshot
        whole = versions_in(self._folder, from_start=True)
        if len([one for one in versions_in(self._folder) if not whole or one > whole[-1]]) >= FROM_START_EVERY:
            self._publish_from_start(version)

    def _publish_from_start(self, version: int) -> None:
        """The way of engines that start from now on; what led here before is removed, but for the last step."""
        payload, tensors = bytearray(), {}
        for name, last in self._tensors.items():
            new, old, start = self._snapshot[name], _bytes(self._start[name]), len(payload)
            if not np.array_equal(new, old):
                payload += encode(self._encoding, new, old, last.element)
            tensors[name] = replace(last, start=start, end=len(payload))
        self._write(version, START, bytes(payload), tensors, from_start=True)
        for from_start in (False, True):
            for older in versions_in(self._folder, from_start=from_start):
                if older < version:
                    shutil.rmtree(folder_of(self._folder, older, from_start=from_start), ignore_errors=True)

    def _write(
        self, version: int, base: int, payload: bytes, tensors: dict[str, DeltaTensor], *, from_start: bool = False
    ) -> None:
        index = DeltaIndex(version, base, self._encoding.value, len(payload), checksum(payload), tensors)
        write_delta(self._folder, index, payload, from_start=from_start)

    def _restored(self) -> Snapshot:
        """What engines started from, with what was published since, by a process before this one."""
        snapshot = {name: _bytes(entry) for name, entry in self._start.items()}
        held, versions = START, versions_in(self._folder)
        for delta in chain(self._folder, START, versions[-1]) if versions else []:
            patch = Patch(delta, held)
            snapshot |= dict(patch.changed(snapshot))
            held = patch.index.version
        return held, snapshot


def _bytes(entry: TensorEntry) -> Bytes:
    return np.fromfile(entry.file, np.uint8, entry.end - entry.start, offset=entry.start)
