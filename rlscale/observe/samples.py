"""samples.jsonl: a few prompts with what the policy answered before and after training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.observe import jsonl

FILE = "samples.jsonl"


@dataclass(frozen=True)
class ShownSample:
    """One answer worth showing."""

    phase: str
    """`before` or `after` training."""
    prompt: str
    """The prompt as text."""
    response: str
    """What the policy answered."""
    label: Any = None
    """What the reward compared with."""
    reward: float | None = None
    """The sample's reward."""


def write_samples(folder: Path, phase: str, samples: Iterable[ShownSample]) -> None:
    """Put these samples in place of those that the phase had; samples of other phases stay."""
    others = [record for record in jsonl.read(folder / FILE) if record.get("phase") != phase]
    jsonl.rewrite(folder / FILE, [*others, *({**vars(sample), "phase": phase} for sample in samples)])


def read_samples(folder: Path) -> list[ShownSample]:
    """All samples in the file's order."""
    return [
        ShownSample(
            phase=str(record.get("phase", "")),
            prompt=str(record.get("prompt", "")),
            response=str(record.get("response", "")),
            label=record.get("label"),
            reward=record.get("reward"),
        )
        for record in jsonl.read(folder / FILE)
    ]
