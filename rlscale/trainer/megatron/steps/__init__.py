"""Steps: forward and backward passes, log-probs, the optimizer, and what a step measures."""
