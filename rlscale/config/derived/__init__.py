"""What follows from a configuration, computed in one place each."""
