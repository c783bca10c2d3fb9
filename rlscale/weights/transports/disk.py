"""To engines that read a folder of ours: rank 0 writes a whole checkpoint for each version, and they load it.

For engines that somebody else runs, and that nothing else reaches: any SGLang server can load a folder.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.receivers import TakesFolders, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError, tell
from rlscale.weights.whole_version import WholeVersion


class DiskTransport:
    """Rank 0 to every engine that reaches its folder. A version appears there whole or not at all."""

    def __init__(
        self, route: Route, folder: str | None = None, folder_on_engines: str | None = None, keep: int = 2
    ) -> None:
        """`folder`: where versions are written; None is the run's own folder. `folder_on_engines`: the path under which
        engines see that folder, where it is another one. `keep`: newest versions that stay once all engines have loaded
        the last.
        """
        self._timeout, self._keep = route.timeout_s, keep
        self._beside = None if route.started_from is None else Path(route.started_from)
        self._folder, self._seen = route.exchange(folder, folder_on_engines)
        self._receivers: list[TakesFolders] = []
        self._writing: WholeVersion | None = None
        self._failure: OSError | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        self.close()
        if dist.get_rank() == 0:
            self._receivers = that_can(TakesFolders, receivers, "disk")

    def send(self, bucket: Bucket) -> None:
        """See Transport. What the disk refuses is said in `commit`: the other ranks go on until then."""
        if not self._receivers or self._failure is not None:
            return
        try:
            if self._writing is None:
                self._writing = WholeVersion(_free_name(self._folder, bucket.version), self._beside)
            self._writing.add(bucket)
        except OSError as error:
            self._failure = error

    def commit(self, version: int) -> None:
        """See Transport. TransferError also when the disk refuses."""
        if not self._receivers:
            return
        folder = str(self._seen / self._publish().name)
        tell(self._receivers, lambda receiver: receiver.receive_folder(folder, version), self._timeout)
        for older in _versions(self._folder)[: -self._keep]:
            shutil.rmtree(older, ignore_errors=True)

    def close(self) -> None:
        """See Transport. A version that is half written is removed."""
        if self._writing is not None:
            self._writing.discard()
        self._writing = self._failure = None
        self._receivers = []

    def _publish(self) -> Path:
        """The folder of the version, whole. TransferError when the disk refused anything."""
        try:
            if self._failure is not None:
                raise self._failure
            assert self._writing is not None, "commit without weights"
            return self._writing.publish()
        except OSError as error:
            raise TransferError(f"weights cannot be written to {self._folder}: {error}") from error
        finally:
            if self._writing is not None:
                self._writing.discard()
            self._writing = self._failure = None


def _versions(folder: Path) -> list[Path]:
    """The versions in a folder, the oldest first."""
    return sorted(folder.glob("version_*"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _free_name(folder: Path, version: int) -> Path:
    """Where a version is written. One that is sent again gets another name: engines may be reading the first."""
    first = folder / f"version_{version:06d}"
    again = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([first], again) if not name.exists())
