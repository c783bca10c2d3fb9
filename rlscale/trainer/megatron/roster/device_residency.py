"""Which model has the device: of a rank's models with memory of their own, one is resident at a time."""

from __future__ import annotations

from rlscale.trainer.megatron.roster.offload import Offload


class DeviceResidency:
    """Puts models to sleep before it wakes another one. Where nothing is moved (on the CPU) all stay awake."""

    def __init__(self, moves: bool) -> None:
        self._moves = moves
        self._models: dict[str, Offload] = {}

    def join(self, name: str, offload: Offload) -> None:
        """A model that was just built takes part, and is put to sleep to make room for the next."""
        self._models[name] = offload
        self.rest(name)

    def take(self, name: str) -> None:
        """Wake this model, and only this one."""
        if not self._moves:
            return
        for other in self._models:
            if other != name:
                self._models[other].sleep()
        self._models[name].wake()

    def rest(self, name: str) -> None:
        """Put this model to sleep until it is taken again."""
        if self._moves:
            self._models[name].sleep()

    def rest_all(self) -> None:
        """Put every model to sleep."""
        for name in self._models:
            self.rest(name)

    @property
    def awake(self) -> list[str]:
        """Names of the models that have their memory."""
        return [name for name, offload in self._models.items() if not offload.asleep]
