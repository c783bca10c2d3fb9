"""Programs that nobody has read, run without a network, without files, and within limits."""
