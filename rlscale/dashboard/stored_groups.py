"""Stored rollouts, one iteration at a time: its groups with their spread, and the tokens of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.dashboard.columns import finite
from rlscale.data.stored.stored_rollouts import FOLDER, StoredRollouts
from rlscale.data.tokens.token_decoder import Decode, token_decoder

MOST_TOKENS = 20_000
"""Tokens of a sample that are shown."""
_BROKEN = "\ufffd"


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
        """One sample: facts, and per token `text`, `mask`, `version`, `probability`, `advantage` and `ratio`.

        The ratio is the trainer's probability before the iteration's first step over the engine's. UserError where
        there is no such sample; no advantages or ratios where none are stored.
        """
        stored = self._there(iteration)
        found = next(iter(stored.samples(iteration, [row], logprobs=True)), None)
        if found is None:
            raise UserError(f"iteration {iteration} has no sample {row}")
        prompt, sample = found
        decode = self._decoder(str(stored.facts(iteration).get("tokenizer", "")))
        shown = slice(0, MOST_TOKENS)
        ids, mask = sample.tokens[shown].tolist(), sample.loss_mask[shown]
        rollout = sample.rollout_logprobs[shown].astype(np.float64)
        trained = stored.trained(iteration, row)
        ratio = None
        if trained is not None and trained.logprobs is not None:
            ratio = np.exp(trained.logprobs[shown].astype(np.float64) - rollout)
        return {
            "prompt": prompt.id,
            "source": prompt.source,
            "label": prompt.label if isinstance(prompt.label, (str, int, float)) else str(prompt.label),
            "reward": finite(sample.reward),
            "finish_reason": sample.finish_reason,
            "info": {str(key): str(value)[:400] for key, value in sample.info.items()},
            "left_out": max(0, len(sample.tokens) - MOST_TOKENS),
            "texts": token_texts(ids, decode),
            "mask": mask.astype(int).tolist(),
            "versions": sample.versions[shown].tolist(),
            "probabilities": _of_trained(np.exp(rollout), mask),
            "advantages": None if trained is None else _of_trained(trained.advantages[shown].astype(np.float64), mask),
            "ratios": None if ratio is None else _of_trained(ratio, mask),
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


def _of_trained(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> list[float | None]:
    """The numbers of trained tokens, five digits behind the point; None for the others and for what is not finite."""
    known = mask & np.isfinite(values)
    return [round(value, 5) if there else None for value, there in zip(values.tolist(), known, strict=True)]


def token_texts(ids: Sequence[int], decode: Decode | None) -> list[str]:
    """The text of each token. Of tokens that make up one character together, the last has it.

    Where no tokenizer is known, their numbers.
    """
    if decode is None:
        return [f"⟨{number}⟩" for number in ids]
    texts, start, before = [], 0, ""
    for end in range(1, len(ids) + 1):
        if end - start > 16:  # a window of a few tokens: what stands far before changes no token's text
            start = end - 8
            before = decode(ids[start : end - 1]).rstrip(_BROKEN)
        whole = decode(ids[start:end])
        if whole.endswith(_BROKEN) and end < len(ids):
            texts.append("")
            continue
        text = whole.removeprefix(before) if whole.startswith(before) else whole[len(before) :]
        texts.append(text or f"⟨{ids[end - 1]}⟩")  # numbers beyond the tokenizer's have no text
        before = whole
    return texts


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
