"""A run without machines: the real loop, rollout service and buffer on simulated engines, in virtual time."""
