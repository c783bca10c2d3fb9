"""What a run has done so far, and what of it is not as in one to which nothing happened."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from soak import balance

from rlscale.data.stored.rollout_file import read_groups
from rlscale.observe.jsonl import read
from rlscale.observe.summary import Summary

WELL = "as undisturbed"


@dataclass(frozen=True)
class Outcome:
    """What a run has done so far."""

    prompts: dict[str, list[int]]
    """Those that each finished iteration trained on."""
    weights: str
    """A checksum of the final ones; empty for a run that has not finished."""
    versions: list[int]
    """Of the weights after each iteration."""
    steps: int
    """Of the optimizer, in all; 0 for a run that has not finished."""
    odd: list[str]
    """Accounts of prompts and tokens that do not balance, iterations that are not each there once, and optimizer steps
    that some of them have not, or that the run has besides."""

    @staticmethod
    def of(folder: Path) -> Outcome:
        """Of the run in a folder."""
        rows = [row for row in read(folder / "metrics.jsonl") if "weight_version" in row]
        seen, versions = [row["iteration"] for row in rows], [row["weight_version"] for row in rows]
        files = [folder / "rollouts" / f"iteration_{number:06d}.parquet" for number in seen]
        prompts = {file.stem: [group.prompt.index for group in read_groups(file)] for file in files if file.exists()}
        final = folder / "hf" / "model.safetensors"
        weights = hashlib.sha256(final.read_bytes()).hexdigest() if final.exists() else ""
        summary = Summary.read(folder) if weights else None
        steps = summary.steps if summary is not None and summary.status == "finished" else 0
        accounts = [balance(rows[-1], "prompts", "drawn"), balance(rows[-1], "tokens", "received")] if rows else []
        odd = [one for one in accounts if " = 0 " not in one]
        if seen != list(range(1, len(seen) + 1)):
            odd.append(f"iterations {seen}")
        made = [int(row.get("steps", 0)) for row in rows]
        if len(set(made)) > 1 or steps not in (0, sum(made)):
            odd.append(f"optimizer steps of the iterations {made}, in all {steps}")
        if versions != sorted(set(versions)):
            odd.append(f"weight versions {versions}")
        return Outcome(prompts, weights, versions, steps, odd)

    def differs(self, calm: Outcome | None) -> list[str]:
        """What of it is not as in the undisturbed run, as far as it has come.

        None where engines generate for the next iteration while the trainer works, so that what an iteration is
        trained on depends on how fast they are; no prompt twice, then.
        """
        if calm is None:
            times = Counter(prompt for prompts in self.prompts.values() for prompt in prompts)
            twice = [prompt for prompt, count in times.items() if count > 1]
            return [*self.odd, *([f"prompts {twice} trained on twice"] if twice else [])]
        other = [name for name, prompts in self.prompts.items() if calm.prompts[name] != prompts]
        faults = [*self.odd, *([f"other prompts in {', '.join(other)}"] if other else [])]
        if self.versions != calm.versions[: len(self.versions)]:
            faults.append(f"other weight versions: {self.versions}")
        if self.steps not in (0, calm.steps):
            faults.append(f"{self.steps} optimizer steps")
        return [*faults, "other weights"] if self.weights not in ("", calm.weights) else faults
