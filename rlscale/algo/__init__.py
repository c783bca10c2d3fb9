"""The mathematics of reinforcement learning on token sequences: pure functions on arrays and tensors.

Per-iteration quantities (scores, advantages, loss weights) are NumPy in float64: they are computed once, on the driver.
Per-step quantities (KL, losses, mismatch) are torch, in the dtype of the log-probs. `docs/algorithms.md` has the table.
"""
