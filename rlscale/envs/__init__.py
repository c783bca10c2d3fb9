"""Rewards: what turns a response into a score."""
