"""The two sides that a session drives: the trainer's ranks, and the engines with whatever feeds them."""
