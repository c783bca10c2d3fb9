"""What a run of `arithmetic` may differ in, where engines are not the trainer: seven settings, four corrections."""

from __future__ import annotations

from collections.abc import Iterable

from study import Cell

RUN = ("optim.lr=4e-4",)
"""Alike in all cells: lower than the recipe's, since a step that goes too far is noticed late by engines behind."""
SHORT = ("run.iterations=40",)
"""A third of the recipe's."""
SETTINGS = {
    "bitwise": ("run.bitwise=true",),
    "float32": (),
    "bfloat16": ("model.dtype=bfloat16",),
    "fp8": ("rollout.weights=fp8_tensor",),
    "int4": ("rollout.weights=int4",),
    "int4-trained": ("rollout.weights=int4", "trainer.fake_quant=true"),
    "behind": ("cluster.placement=disaggregated", "rollout.max_staleness=4", "rollout.on_sync=abort_and_resume"),
}
_CENTERED = "algo.correction.score_centering=20"  # all words of the recipe's vocabulary
CORRECTIONS = {
    "none": (),
    "tis": ("algo/correction=tis",),
    "score centering": ("algo/correction=score_centering", _CENTERED),
    "tis, score centering": ("algo/correction=tis", _CENTERED),
}


def cells(
    settings: Iterable[str], corrections: Iterable[str], seeds: Iterable[int], *, whole: bool = False
) -> list[Cell]:
    """All combinations, seed by seed; `whole` runs have the recipe's own length."""
    length = () if whole else SHORT
    return [
        Cell(setting, correction, seed, (*RUN, *length, *SETTINGS[setting], *CORRECTIONS[correction]))
        for seed in seeds
        for correction in corrections
        for setting in settings
    ]
