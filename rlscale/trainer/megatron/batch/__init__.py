"""A rank's micro-batches: packed sequences, their columns, and the experts their tokens are sent to."""
