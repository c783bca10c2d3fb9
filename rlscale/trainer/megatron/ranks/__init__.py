"""Where a rank stands: its process groups, how tokens are cut for it, determinism."""
