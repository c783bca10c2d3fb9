"""Prompts, samples, groups, the batch that the trainer sees, and how it is packed."""
