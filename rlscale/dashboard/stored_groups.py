"""Stored rollouts, one iteration at a time: its groups with their spread, and the tokens of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.errors import UserError
from rlscale.dashboard.columns import finite
from rlscale.data.stored.stored_rollouts import FOLDER, StoredRollouts
from rlscale.data.tokens.token_decoder import Decode, token_decoder
from rlscale.observe.token_view import token_view

MOST_TOKENS = 20_000
"""Tokens of a sample that are shown."""


class StoredGroups:
    """What a run has stored in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: tuple[float, StoredRollouts | None] = (-1.0, None)
        self._decoders: dict[str, Decode | None] = {}

    def iterations(self) -> list[int]:
        """Those that are stored; none where nothing is."""
        stored = self._stored()
        return stored.iterations if stored is not None else []

    def groups(self, iteration: int) -> list[dict[str, Any]]:
        """Each group: `prompt`, `rows` (of its samples), rewards' `mean`, `spread`, `least`, `most`, `length`, `age`.

        `length` is the mean of generated tokens, `age` how many weight versions its oldest token is behind. UserError
        where the iteration cannot be read.
        """
        stored = self._there(iteration)
        version = int(stored.facts(iteration).get("weight_version", 0))
        groups: dict[int, list[tuple[int, Any]]] = {}
        for row, sample in enumerate(stored.overview(iteration)):
            groups.setdefault(sample.prompt_index, []).append((row, sample))
        return [_group(samples, version) for samples in groups.values()]

    def sample(self, iteration: int, row: int) -> dict[str, Any]:
        """One sample: facts, and what `token_view` tells of its tokens. UserError where there is no such sample."""
        stored = self._there(iteration)
        found = next(iter(stored.samples(iteration, [row], logprobs=True)), None)
        if found is None:
            raise UserError(f"iteration {iteration} has no sample {row}")
        prompt, sample = found
        decode = self._decoder(str(stored.facts(iteration).get("tokenizer", "")))
        trained = stored.trained(iteration, {row: sample})
        return {
            "prompt": prompt.id,
            "source": prompt.source,
            "label": prompt.label if isinstance(prompt.label, (str, int, float)) else str(prompt.label),
            "reward": finite(sample.reward),
            "finish_reason": sample.finish_reason,
            "info": {str(key): str(value)[:400] for key, value in sample.info.items()},
            "left_out": max(0, len(sample.tokens) - MOST_TOKENS),
            **token_view(sample, trained.get(row), decode, slice(0, MOST_TOKENS)),
        }

    def _stored(self) -> StoredRollouts | None:
        """The list of files, read anew when the folder has changed."""
        try:
            changed = (self._folder / FOLDER).stat().st_mtime
        except OSError:
            return None
        if changed != self._listed[0]:
            try:
                self._listed = changed, StoredRollouts(self._folder, "run.output")
            except UserError:
                self._listed = changed, None
        return self._listed[1]

    def _there(self, iteration: int) -> StoredRollouts:
        stored = self._stored()
        if stored is None or iteration not in stored.iterations:
            raise UserError(f"iteration {iteration} is not stored; a run stores its rollouts with rollout.store=all")
        return stored

    def _decoder(self, folder: str) -> Decode | None:
        if folder not in self._decoders:
            try:
                self._decoders[folder] = token_decoder(folder)
            except UserError:
                self._decoders[folder] = None
        return self._decoders[folder]


def _group(samples: Sequence[tuple[int, Any]], version: int) -> dict[str, Any]:
    rewards = np.array([sample.reward for _, sample in samples], np.float64)
    known = rewards[np.isfinite(rewards)]
    oldest = [sample.oldest_version for _, sample in samples if sample.oldest_version >= 0]
    return {
        "prompt": samples[0][1].prompt_id,
        "source": samples[0][1].source,
        "rows": [row for row, _ in samples],
        "rewards": [finite(reward) for reward in rewards.tolist()],
        "mean": finite(float(known.mean())) if known.size else None,
        "spread": finite(float(known.std())) if known.size else None,
        "length": round(float(np.mean([sample.generated for _, sample in samples])), 1),
        "age": version - min(oldest) if oldest else 0,
    }
