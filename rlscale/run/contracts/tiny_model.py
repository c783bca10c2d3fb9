"""The model on which contracts try trainers and engine launchers."""

TINY = (
    "model.create.architecture.num_hidden_layers=2",
    "model.create.architecture.hidden_size=32",
    "model.create.architecture.intermediate_size=64",
    "rollout.groups_per_iteration=4",
    "rollout.samples_per_group=2",
)
"""Overrides of the default recipe."""
