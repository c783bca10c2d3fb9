"""Writing C functions that are right, and then fast."""
