"""The launcher of a spare machine, for which nobody waits: it may never come up, and may not hear that it ends."""

from __future__ import annotations

from typing import Any

from rlscale.run.processes.remote_calls import Calls

_STOPPED_S = 8.0
"""How long its servers may take to end."""


class SpareLauncher:
    """One launcher. Where another job has the GPUs that it reserves, it has no process, and Ray keeps it waiting."""

    def __init__(self, calls: Calls, handle: Any, node: str) -> None:
        """`handle` is that of its actor, which is starting; `node` is Ray's id of the machine."""
        self._calls, self.handle, self.node = calls, handle, node
        self._there, self._up = handle.whereabouts.remote(), False
        self._since = calls.host.clock()
        self._stopping: Any = None

    @property
    def up(self) -> bool:
        """Whether its process has come up, which may have died since."""
        if not self._up and self._calls.host.wait([self._there], 0.0)[0]:
            self._up, self._since = True, self._calls.host.clock()
        return self._up

    def seconds(self) -> float:
        """For how long it has been up; as long as it is not, how long ago it was started."""
        return self._calls.host.clock() - self._since

    def stop(self) -> None:
        """Tell it to end its servers; whether it did, `has_ended` says later. One that is not up ends at once."""
        if self.up:
            self._stopping, self._since = self.handle.call.remote("stop"), self._calls.host.clock()

    def has_ended(self) -> bool:
        """Whether it has, after `stop`: once its servers have ended, or have had the time for that."""
        waits = self._stopping is not None and not self._calls.host.wait([self._stopping], 0.0)[0]
        if waits and self.seconds() < _STOPPED_S:
            return False
        self.end()
        return True

    def end(self) -> None:
        """End it, whatever it does, and its servers with it."""
        self._calls.processes.end_frozen([self.handle])
        self._calls.host.end(self.handle)
        self._calls.processes.forget([self.handle])
