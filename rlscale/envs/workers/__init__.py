"""Where rewards are computed without blocking the rollout: threads, processes or the event loop."""
