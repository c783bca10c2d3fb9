"""How long the trained responses were, for those whose turn it was: the bias towards short ones, and its error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlscale.run.simulation.simulated_iteration import SimulatedIteration


def length_ratio(told: Sequence[SimulatedIteration], warm_up: int, begun: Sequence[int]) -> tuple[float, float]:
    """Mean length trained over that of the responses whose turn it was, after `warm_up` iterations; its standard error.

    `begun` are the lengths of all responses in the order in which they began. As many of them as samples have a fate at
    a moment had their turn by then. With those that began meanwhile, and are not finished, the mean would be of other
    prompts than those that are trained on.

    Let N be the tokens trained by the end of an iteration, and S those of the responses whose turn it was by then. What
    is overtaken is trained later, so where nothing is thrown away S - N = D, the tokens by which those that were
    overtaken are longer than those that overtook them, does not grow for ever, and the ratio of n iterations,

        1 - (D at their end - D at their beginning) / their S,

    goes to 1 as they get more. Until then it is off by how D happens to stand at two moments: its error is sqrt(2)
    times the standard deviation of D over S. Where responses are thrown away D has a slope, which is taken out of it.
    """
    first = told[warm_up - 1].settled if warm_up else 0
    lengths = np.asarray(begun, np.float64)[first : told[-1].settled]
    if not len(lengths):
        return 1.0, math.inf
    ends = np.array([one.settled for one in told[warm_up:]]).clip(max=first + len(lengths)) - first
    theirs = np.concatenate([[0.0], lengths.cumsum()[ends - 1]])
    tokens = np.cumsum([0.0, *(one.tokens for one in told[warm_up:])])
    samples = sum(one.samples for one in told[warm_up:])
    ratio = float(tokens[-1] / samples / lengths.mean())
    kept = 1.0 if samples == len(lengths) else tokens[-1] / theirs[-1]
    overtaken = kept * theirs - tokens
    return ratio, float(ratio * math.sqrt(2.0) * overtaken.std() / tokens[-1])
