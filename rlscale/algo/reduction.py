"""How per-token losses become the loss of a step: one weight per token, so that the loss is sum_t weight_t * loss_t.

All denominators belong to the whole step, over every rank and micro-batch, and are known before the first forward.
Nothing is divided afterwards, which is why the gradient does not depend on how a step is cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("sample_mean", "sample_sum", "token_mean", "constant")


def token_weights(
    kind: str,
    mask: NDArray[np.bool_],
    *,
    lengths: NDArray[np.int64],
    sample: NDArray[np.int64],
    step: NDArray[np.int64],
    max_response_tokens: int,
) -> NDArray[np.float64]:
    """Weight of every token in the loss of its step.

    Shapes: mask [T]; lengths, sample, step [rows]: tokens, sample number and step number of each segment, in the order
    in which the segments are concatenated -> [T] float64, 0 where mask is False. With N the step's samples that have at
    least one trainable token, n_i the trainable tokens of sample i over all its segments, n = sum_i n_i:

        sample_mean  1 / (N n_i)                    GRPO, DeepSeekMath (arXiv 2402.03300), eq. 3
        sample_sum   1 / N                          RLOO (arXiv 2402.14740)
        token_mean   1 / n                          DAPO (arXiv 2503.14476), eq. 8
        constant     1 / (N max_response_tokens)    Dr. GRPO (arXiv 2503.20783), section 3.2

    Raises ValueError for an unknown kind, or when segments of one sample are in different steps.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown reduction {kind!r}; known are {', '.join(KINDS)}")
    mask = np.asarray(mask, dtype=bool)
    if int(np.sum(lengths)) != mask.shape[0]:
        raise ValueError(f"lengths add up to {int(np.sum(lengths))} tokens but the mask has {mask.shape[0]}")
    sample_of_row, step_of_sample = _steps_of_samples(sample, step)
    sample_of_token = np.repeat(sample_of_row, lengths)
    step_of_token = step_of_sample[sample_of_token]
    tokens_of_sample = np.bincount(sample_of_token[mask], minlength=step_of_sample.shape[0])
    steps = int(step_of_sample.max(initial=-1)) + 1
    samples_of_step = np.bincount(step_of_sample[tokens_of_sample > 0], minlength=steps)
    tokens_of_step = np.bincount(step_of_token[mask], minlength=steps)

    if kind == "sample_mean":
        denominator = samples_of_step[step_of_token] * tokens_of_sample[sample_of_token]
    elif kind == "sample_sum":
        denominator = samples_of_step[step_of_token]
    elif kind == "token_mean":
        denominator = tokens_of_step[step_of_token]
    else:
        denominator = samples_of_step[step_of_token] * max_response_tokens
    # Where nothing is trainable the denominator is 0 and so is the weight.
    return np.where(mask, 1.0 / np.maximum(denominator, 1), 0.0)


def _steps_of_samples(
    sample: NDArray[np.int64], step: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sample of each row, and the step of each sample, numbered from 0. ValueError for a sample in two steps."""
    _, sample_of_row = np.unique(sample, return_inverse=True)
    _, step_of_row = np.unique(step, return_inverse=True)
    sample_of_row, step_of_row = sample_of_row.reshape(-1), step_of_row.reshape(-1)
    step_of_sample = np.zeros(int(sample_of_row.max(initial=-1)) + 1, dtype=np.int64)
    step_of_sample[sample_of_row] = step_of_row
    if (step_of_sample[sample_of_row] != step_of_row).any():
        raise ValueError("segments of one sample are in different steps")
    return sample_of_row, step_of_sample
