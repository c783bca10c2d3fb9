"""The URL that agents talk to, and what their calls become: turns of a tree, and out of it a sample."""
