"""A run as its loop sees it: collecting, training, measuring and saving."""
