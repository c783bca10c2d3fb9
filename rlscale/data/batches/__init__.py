"""What ranks train on: the columns of a batch, packed and divided."""
