"""samples.jsonl: a few prompts with what the policy answered, in evaluations and while it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.data.sample import Group
from rlscale.observe import jsonl

FILE = "samples.jsonl"

BEFORE, AFTER, TRAINING = "before", "after", "training"


@dataclass(frozen=True)
class ShownSample:
    """One answer worth showing."""

    phase: str
    """Of an evaluation `before`, `during` or `after` training; `training` for an answer that was trained on."""
    prompt: str
    """The prompt as text."""
    response: str
    """What the policy answered, without special tokens."""
    label: Any = None
    """What the reward compared with."""
    reward: float | None = None
    """The sample's reward."""
    solved: bool | None = None
    """Whether the reward is at least `eval.success_reward`; null in files of older runs."""
    iteration: int = 0
    """Iterations that were done when it was generated; of `training`, the one that trained on it."""
    index: int | None = None
    """Number of the prompt in its source's stream, which tells equal prompts apart."""
    raw_response: str = ""
    """The answer with special tokens."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What two records of the same answer share: a run that was killed may have written it twice."""
        return self.phase, self.iteration, self.prompt if self.index is None else self.index


class SamplesLog:
    """Writes samples.jsonl. A run that continues from iteration k gives `resumed=k`: later samples are made again."""

    def __init__(self, folder: Path, resumed: int | None = None) -> None:
        path = folder / FILE
        if path.exists():
            kept = (
                []
                if resumed is None
                else [r for r in jsonl.read(path) if (_if(r.get("iteration"), int) or 0) <= resumed]
            )
            jsonl.rewrite(path, kept)
        self._file = jsonl.open_to_append(path)

    def log(self, samples: Iterable[ShownSample]) -> None:
        """Append one line per sample."""
        for sample in samples:
            self._file.write(jsonl.to_line(vars(sample)))

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()


def shown(groups: Iterable[Group], phase: str, iteration: int, success_reward: float) -> list[ShownSample]:
    """The first sample of each group."""
    found = []
    for group in groups:
        prompt, sample = group.prompt, group.samples[0]
        scored = sample.info.get("task_reward", sample.reward)  # the reward before a penalty for its length
        found.append(
            ShownSample(
                phase=phase,
                prompt=prompt.text,
                response=sample.text,
                label=prompt.label,
                reward=sample.reward,
                solved=bool(scored >= success_reward),
                iteration=iteration,
                index=prompt.index,
                raw_response=sample.raw_text,
            )
        )
    return found


def read_samples(folder: Path) -> list[ShownSample]:
    """All samples in the file's order; of two records of the same answer the later one."""
    found: dict[tuple[Any, ...], ShownSample] = {}
    for record in jsonl.read(folder / FILE):
        sample = ShownSample(
            **{name: str(record.get(name, "")) for name in ("phase", "prompt", "response", "raw_response")},
            label=record.get("label"),
            reward=_if(record.get("reward"), int, float),
            solved=_if(record.get("solved"), bool),
            iteration=_if(record.get("iteration"), int) or 0,
            index=_if(record.get("index"), int),
        )
        found[sample.key] = sample
    return list(found.values())


def _if(value: Any, *kinds: type) -> Any:
    """The value if it is of one of these types: somebody may have edited the file."""
    return value if isinstance(value, kinds) else None
