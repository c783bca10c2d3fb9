"""Rollouts on disk, to be read again."""
