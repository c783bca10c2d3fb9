"""What ships, as the sources say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of the table of shipped algorithms."""

    score: str
    advantage: str
    kl: str
    loss: str
    bounds: tuple[float, ...]
    reduction: str
    whiten: bool = False
    distil: float = 0.0


TABLE = {
    "grpo": Row("group_mean_std", "broadcast", "none", "clip", (0.2, 0.2), "sample_mean"),
    "dr_grpo": Row("group_mean", "broadcast", "none", "clip", (0.2, 0.2), "constant"),
    "dapo": Row("group_mean_std", "broadcast", "none", "clip", (0.2, 0.28), "token_mean"),
    "rloo": Row("leave_one_out", "broadcast", "none", "clip", (0.2, 0.2), "sample_sum"),
    "gspo": Row("group_mean_std", "broadcast", "none", "gspo", (3e-4, 4e-4), "sample_mean"),
    "gspo_token": Row("group_mean_std", "broadcast", "none", "gspo_token", (3e-4, 4e-4), "sample_mean"),
    "cispo": Row("group_mean_std", "broadcast", "none", "cispo", (1.0, 4.0), "token_mean"),
    "sapo": Row("group_mean_std", "broadcast", "none", "sapo", (1.0, 1.05), "sample_mean"),
    "reinforce_pp": Row("raw", "returns", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "reinforce_pp_baseline": Row("group_mean", "baseline", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "ppo": Row("raw", "gae", "reward", "clip", (0.2, 0.2), "token_mean", whiten=True),
    "opd": Row("none", "none", "none", "clip", (0.2, 0.2), "token_mean", distil=1.0),
    "sft": Row("none", "none", "none", "sft", (), "token_mean"),
}
"""Section 9 of the mathematics, by hand."""
