"""The cells of the fault matrix: a process, what befalls it and when; what must become of it, and how fast."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from faulty_run import PHASES
from harms import FAULTS, LASTS_S

PROCESSES = {
    "driver": ("rlscale command",),
    "rank": ("TrainerActor",),
    "engine": ("rlscale engine-0",),
    "scheduler": ("sglang::scheduler",),
    "router": ("rlscale.serve.router_main",),
    "rollout service": ("RolloutActor",),
    "launcher": ("LauncherActor",),
    "Ray worker": ("serve/forked_python.py",),
    "raylet": ("raylet/raylet",),
    "node": ("raylet/raylet", "Actor", "rlscale engine-0", "sglang::", "rlscale.serve.router_main", "ray::"),
}
"""Words in the command line of each. `Ray worker` is what Ray started as rank, rollout service and so on."""
SERVING = ("engine", "scheduler", "router", "rollout service", "launcher")
"""What outlives the trainer's ranks."""
GOES_ON = ("rank", "engine", "scheduler", "router")
"""Processes whose loss ends no run that is neither starting nor stopping."""
RECOVERY_S = 60.0
"""For a process in the place of another one, two iterations, or the end with a line; besides what the fault lasts."""
START_S = 120.0
"""The same where the run is only starting."""
END_S = 15.0
"""A run that is asked to end has ended by then, whatever is stuck."""
TWELFTH = 12


@dataclass(frozen=True)
class Cell:
    """A process, what befalls it, and when."""

    process: str
    fault: str
    phase: str

    @staticmethod
    def of(text: str) -> Cell:
        """`rank:kill:train`. ValueError for what is no cell."""
        process, fault, phase = text.split(":")
        if process not in PROCESSES or fault not in FAULTS or phase not in PHASES:
            raise ValueError(f"no cell of the matrix: {text}")
        return Cell(process, fault, phase)

    @property
    def ends_no_run(self) -> bool:
        """Whether the run must go on by itself."""
        lost = self.process in GOES_ON and self.fault in ("kill", "stop")
        return lost and self.phase not in ("start", "stop", "save")

    @property
    def limit_s(self) -> float:
        """By when the run must be further, or have ended."""
        if self.phase == "stop":  # a command that is stopped or starved itself cannot end before that is over
            return END_S + (LASTS_S[self.fault] if self.process == "driver" else 0.0)
        return LASTS_S[self.fault] + (START_S if self.phase == "start" else RECOVERY_S)

    def __str__(self) -> str:
        return f"{self.process}:{self.fault}:{self.phase}"


def all_cells() -> list[Cell]:
    """The whole matrix, in an order in which each twelfth has every process, every fault and every phase."""
    found = []
    for place, process in enumerate(PROCESSES):
        for number, fault in enumerate(FAULTS):
            for moment, phase in enumerate(PHASES):
                found.append(((5 * place + 2 * number + 3 * moment) % TWELFTH, Cell(process, fault, phase)))
    return [cell for _, cell in sorted(found, key=lambda one: one[0])]


def untouched(cells: Collection[Cell]) -> list[str]:
    """Processes, faults and phases that none of these cells has."""
    seen = {word for cell in cells for word in (cell.process, cell.fault, cell.phase)}
    return [word for words in (PROCESSES, FAULTS, PHASES) for word in words if word not in seen]
