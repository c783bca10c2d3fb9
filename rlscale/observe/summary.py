"""summary.json: the run in numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rlscale.observe.atomic import write_text
from rlscale.observe.jsonl import to_json

FILE = "summary.json"


@dataclass
class Summary:
    """What summary.json holds. null means not measured. Seconds are of wall time."""

    status: str = "running"
    """`running`, `finished`, `stopped` (by the user, can be continued) or `failed`."""
    recipe: str = ""
    """Name of the recipe."""
    message: str | None = None
    """Why the run failed."""
    ended: str | None = None
    """Why training ended: `all 30 iterations`, `early: ...` where `run.stop_loss` ended it, or after how many."""
    wall_seconds: float = 0.0
    """From the start of the command to the end of the run; of the last command when the run was continued."""
    startup_seconds: float = 0.0
    """Until the loop began: warm start, engines and ranks."""
    loop_seconds: float = 0.0
    """The loop, evaluations included: the sum of the four below."""
    generate_seconds: float = 0.0
    """Waiting for generated groups."""
    train_seconds: float = 0.0
    """In the trainer's steps."""
    sync_seconds: float = 0.0
    """Giving the engines new weights."""
    other_seconds: float = 0.0
    """Everything else in the loop: evaluations, checkpoints, the driver's own work."""
    evaluate_seconds: float = 0.0
    """Of `other_seconds`: evaluations."""
    checkpoint_seconds: float = 0.0
    """Of `other_seconds`: checkpoints."""
    warm_start_seconds: float = 0.0
    """Of `startup_seconds`: the warm start, if it had to be run."""
    teacher_seconds: float = 0.0
    """Of `startup_seconds`: training the teacher, if it had to be run."""
    iterations: int = 0
    """Iterations done, over all commands of the run."""
    steps: int = 0
    """Optimizer steps of the policy done, skipped ones included."""
    steps_skipped: int = 0
    """Steps, of policy and critic, that left the weights alone because a gradient was not finite."""
    weight_version: int = 0
    """Version of the final weights."""
    resumed: int = 0
    """Times that the run was continued from a checkpoint."""
    eval_before: float | None = None
    """pass@1 on the evaluation's data before training."""
    eval_after: float | None = None
    """pass@1 on the evaluation's data after training."""
    eval_before_metrics: dict[str, float] | None = None
    """Everything that the evaluation before training measured, e.g. {"pass@1": 0.51, "pass@4": 0.8}."""
    eval_after_metrics: dict[str, float] | None = None
    """Everything that the evaluation after training measured."""
    eval_trained_on: int | None = None
    """Prompts of the evaluation that are in the training data too; null where its source cannot tell."""
    tokens_generated: int = 0
    """Response tokens that the engines generated for training."""
    tokens_trained: int = 0
    """Trainable tokens that steps were made on."""
    samples_failed: int = 0
    """Samples dropped because generation or reward failed."""
    prompts_too_long: int = 0
    """Prompts dropped because they passed `rollout.max_prompt_tokens`."""
    prompts_bad: int = 0
    """Prompts dropped because they or their labels could not be used (`data.max_bad_rate`)."""
    groups_dropped: int = 0
    """Groups dropped and replaced because their rewards were all equal (`algo.refill`)."""
    engine_restarts: int = 0
    """Engines that died and were started again."""
    trainer_restarts: int = 0
    """Times that the trainer's ranks were lost and started again (`run.recover`)."""
    logprob_diff_mean: float | None = None
    """Mean |trainer - engine| log-prob over the run's tokens whose weight version was the trainer's."""
    logprob_diff_max: float | None = None
    """Largest of them."""
    canary_diff_max: float | None = None
    """Largest |trainer - engine| log-prob on the canary prompt after a sync."""
    critic_loss: float | None = None
    """Loss of the critic's steps in the last iteration."""
    explained_variance: float | None = None
    """Share of the returns' variance that the critic explained in the last iteration, before its steps."""
    ppo_kl_first_step: float | None = None
    """KL of the first step's policy from its own old log-probs, with the old pass forced: 0 up to rounding.
    Not measured with `algo.correction.bypass`."""

    def write(self, folder: Path) -> None:
        """Write summary.json in one step."""
        write_text(folder / FILE, to_json(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Summary | None:
        """The summary of a run, or None where there is none that can be read. Unknown keys are left out."""
        if not (folder / FILE).is_file():  # nor a pipe, which would be waited for
            return None
        try:
            stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(stored, dict):
            return None
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})


def in_summary(name: str, accuracies: dict[str, float], *, first: bool) -> dict[str, float]:
    """The accuracies on an evaluation set as the summary keeps them: with its name, but for the `first` set's."""
    return accuracies if first else {f"{name}/{metric}": value for metric, value in accuracies.items()}
